import torch
from torch import nn

from gradcheck_suite import check_gradients


class Leaky(torch.autograd.Function):
    """x where x is positive, 0.2 x elsewhere."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, 0.2 * x)

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, cotangent, 0.02 * cotangent)  # a slip of the finger


class Fixed(Leaky):
    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, cotangent, 0.2 * cotangent)


class Net(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first, self.last, self.activation = nn.Linear(4, 8), nn.Linear(8, 2), activation

    def forward(self, x):
        return self.last(self.activation.apply(self.first(x)))


torch.manual_seed(0)
x = torch.randn(3, 4)
print(check_gradients(Net(Leaky), x))
print(str(check_gradients(Net(Fixed), x)).splitlines()[0])
