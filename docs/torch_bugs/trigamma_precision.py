"""``polygamma(1, x)`` in float64, and with it the gradient of ``digamma``, is good to ten digits only."""

import numpy as np
import scipy.special
import torch

OPS = ("aten::polygamma(1, *", "aten::digamma(*")

x = torch.linspace(0.2, 6, 300, dtype=torch.float64, requires_grad=True)
torch.digamma(x).sum().backward()
exact = scipy.special.polygamma(1, x.detach().numpy())
value_error = np.abs(torch.polygamma(1, x.detach()).numpy() - exact) / exact
gradient_error = np.abs(x.grad.numpy() - exact) / exact
# An independent check: digamma(x + h) - digamma(x - h), whose float64 values torch gets right.
h = 1e-4
at = int(gradient_error.argmax())
point = x.detach()[at]
difference = (torch.digamma(point + h) - torch.digamma(point - h)).item() / (2 * h)
finer = (torch.digamma(point + h / 2) - torch.digamma(point - h / 2)).item() / h
richardson = (4 * finer - difference) / 3
print(
    f"polygamma(1, x): off by {value_error.max():.1e} relative, at x = {x[int(value_error.argmax())].item():.3f}"
)
print(f"gradient of digamma at {point.item():.3f}: autograd {x.grad[at].item():.13f}")
print(f"                            differences {richardson:.11f}")
print(f"                                  exact {exact[at]:.13f}")
SHOWN = gradient_error.max() > 1e-11
