"""``batch_norm`` in training returns a wrong gradient for one image whose output is turned into a sequence.

``bn(x).flatten(2).transpose(1, 2)`` is how convolutional features become tokens. For a batch of one, the gradient comes
back in channels-last memory with an unusual batch stride; the CPU kernel then reads the contiguous input as if it were
channels-last too. Values, shapes and dtypes all look right. It happens in eval mode as well, and ``instance_norm`` of
one image, which is a batch norm inside, gets it from any channels-last gradient.
"""

import torch

OPS = ("aten::native_batch_norm(float???1, *",)  # a batch of one only

torch.manual_seed(0)
weight = torch.randn(1, 20, 3, dtype=torch.float64)


def loss(image: torch.Tensor) -> torch.Tensor:
    """A projection of the tokens."""
    features = torch.nn.functional.batch_norm(image, None, None, training=True)
    tokens = features.flatten(2).transpose(1, 2)
    return (tokens * weight).sum()


x = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
(gradient,) = torch.autograd.grad(loss(x), x)
h = 1e-5
differences = torch.zeros_like(x)
for i in range(x.numel()):
    step = torch.zeros(x.numel(), dtype=x.dtype)
    step[i] = h
    step = step.view(x.shape)
    differences.view(-1)[i] = (loss(x.detach() + step) - loss(x.detach() - step)) / (2 * h)
wrong = int((gradient - differences).abs().gt(1e-6).sum())
print(f"autograd    {gradient[0, 0, 0].tolist()}")
print(f"differences {differences[0, 0, 0].tolist()}")
print(
    f"{wrong} of {x.numel()} elements are wrong, by up to {(gradient - differences).abs().max().item():.3g}"
)
print("gradcheck:", torch.autograd.gradcheck(loss, (x,), raise_exception=False))

style = torch.randn(1, 3, 4, 5, dtype=torch.float64)
(plain,) = torch.autograd.grad(torch.nn.functional.instance_norm(x), x, style)
(other,) = torch.autograd.grad(
    torch.nn.functional.instance_norm(x), x, style.contiguous(memory_format=torch.channels_last)
)
print(
    f"instance_norm: the same gradient in another memory format changes the result by {(plain - other).abs().max():.3g}"
)
SHOWN = wrong > x.numel() // 2 and not torch.allclose(plain, other)
