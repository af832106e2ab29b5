"""Functions whose backward is right although the operations of their forward, differentiated as they ran, say otherwise."""

from __future__ import annotations

import pytest
import torch

from gradcheck_suite import Severity, check_gradients


class Root(torch.autograd.Function):
    """The root of ``z**3 + z = x`` by bisection, as entmax, zuko and others find theirs; ``factor`` 1 is right."""

    @classmethod
    def forward(cls, ctx, x, factor, steps):
        low, high = x * 0 - 8.0, x * 0 + 8.0
        for _ in range(steps):
            middle = (low + high) / 2
            below = (middle**3 + middle < x).unsqueeze(0).squeeze(0)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        ctx.save_for_backward(middle, None)
        ctx.factor = factor
        return middle

    @classmethod
    def backward(cls, ctx, cotangent):
        root, _ = ctx.saved_tensors
        return ctx.factor * cotangent / (3 * root**2 + 1), None, None


class Step(torch.autograd.Function):
    """Undeclared: the slope of a comparison is zero."""

    @staticmethod
    def forward(ctx, x):
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


class Assign(torch.autograd.Function):
    """Writes a row into a buffer behind autograd's back, as torchdiffeq's Runge-Kutta steps do."""

    @staticmethod
    def forward(ctx, scratch, row, index):
        ctx.index = index
        scratch.data[index] = row
        return scratch

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent, cotangent[ctx.index], None


class HalfRead(torch.autograd.Function):
    """Reads the lower triangle of a symmetric matrix and spreads its gradient over both."""

    @staticmethod
    def forward(ctx, matrix):
        ctx.save_for_backward(matrix)
        return (2 * matrix.tril(-1) + matrix.diag().diag()).square().sum()

    @staticmethod
    def backward(ctx, cotangent):
        (matrix,) = ctx.saved_tensors
        given = 4 * matrix.tril(-1) * 2 + 2 * matrix.diag().diag()
        return cotangent * (given + given.mT) / 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bisection_is_verified_by_differences(dtype):
    report = check_gradients(lambda x: Root.apply(x, 1.0, 60), torch.randn(5, dtype=dtype))
    assert [f for f in report.findings if f.severity > Severity.NOTE] == [], str(report)
    assert report.ok, str(report)
    assert report.counts["nodes_numerical"] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_wrong_gradient_of_a_bisection_is_found(dtype):
    report = check_gradients(lambda x: Root.apply(x, 1.1, 60), torch.randn(5, dtype=dtype))
    assert [f.code for f in report.errors] == ["GC101"], str(report)
    assert "Root" in report.errors[0].message


def test_a_step_is_still_accused():
    report = check_gradients(Step.apply, torch.randn(5, dtype=torch.float64))
    assert [f.code for f in report.errors] == ["GC101"], str(report)


def test_a_write_behind_autograd_is_no_identity():
    def rows(x):
        scratch = torch.zeros(2, *x.shape, dtype=x.dtype)
        for index, row in enumerate((x.sin(), x.cos())):
            scratch = Assign.apply(scratch, row, index)
        return scratch * torch.arange(1.0, 3.0, dtype=x.dtype)[:, None]

    report = check_gradients(rows, torch.randn(3, dtype=torch.float64))
    assert [f for f in report.findings if f.severity > Severity.NOTE] == [], str(report)
    assert report.verified == ()


def test_which_half_of_a_symmetric_matrix_gets_the_gradient_is_left_open():
    report = check_gradients(lambda x: HalfRead.apply(x @ x.mT), torch.randn(4, 4, dtype=torch.float64))
    assert [f for f in report.findings if f.severity > Severity.NOTE] == [], str(report)
    assert any("keep it symmetric" in entry.reason for entry in report.unverified)


def test_the_same_function_of_a_matrix_that_is_not_symmetric_is_accused():
    report = check_gradients(HalfRead.apply, torch.randn(4, 4, dtype=torch.float64))
    assert [f.code for f in report.errors] == ["GC101"], str(report)
