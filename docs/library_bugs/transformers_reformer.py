"""transformers 5.23.0: the backward of Reformer's ``_ReversibleFunction`` returns its two halves in the wrong order.

Its forward splits its input into (hidden_states, attn_output); its backward returns cat([grad_attn_output,
grad_hidden_states]). ``ReformerEncoder`` passes the same tensor as both halves, so the sum that reaches the embeddings is
right and training is unharmed; whoever gives it two different halves gets a wrong gradient.
"""

import torch
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import ReformerEncoder, _ReversibleFunction

from gradcheck_suite import check_gradients

torch.manual_seed(0)
config = ReformerConfig(
    attn_layers=["local"], hidden_size=4, num_attention_heads=2, attention_head_size=2, feed_forward_size=8,
    local_attn_chunk_length=2, hidden_dropout_prob=0.0, local_attention_probs_dropout_prob=0.0,
)  # fmt: skip
layers = ReformerEncoder(config).double().train().layers


def reversible(x):
    return _ReversibleFunction.apply(x, layers, None, None, [], [], None, False, None, False, False)


x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
weight = torch.randn(1, 4, 8, dtype=torch.float64)
(gradient,) = torch.autograd.grad((reversible(x) * weight).sum(), x)
step = torch.zeros_like(x)
step[0, 0, 0] = 1e-6
with torch.no_grad():
    difference = ((reversible(x + step) - reversible(x - step)) * weight).sum() / 2e-6
print(f"d loss / d x[0, 0, 0]: autograd {gradient[0, 0, 0]:.6f}  finite difference {difference:.6f}")
print(f"what autograd gives to the other half, x[0, 0, 4]: {gradient[0, 0, 4]:.6f}")
print(check_gradients(reversible, x.detach()))
