"""Forward mode of torch's own operations and modules is never accused, but for the defects that are known."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

from gradcheck_suite import Severity, check_gradients
from gradcheck_suite.errors import GradcheckError
from gradcheck_suite.witnesses.forward_nodes import FORWARD_DEFECTS

OPS = [op for op in op_db if op.supports_forward_ad]
# Every thirteenth: spread over all families, in a few seconds.
FEW = OPS[::13]
MOST_ELEMENTS = 3_000


def name_of(op):
    return f"{op.name}.{op.variant_test_name}".rstrip(".")


def calls(op, dtype, count):
    """Some of the op's samples, as functions of their differentiable tensors."""
    if dtype not in op.supported_dtypes("cpu"):
        return
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    for sample in samples[:: max(1, len(samples) // count)][:count]:
        flat, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [i for i, v in enumerate(flat) if isinstance(v, torch.Tensor) and v.requires_grad]
        size = sum(v.numel() for v in flat if isinstance(v, torch.Tensor))
        if not places or size > MOST_ELEMENTS:
            continue

        def function(*tensors, flat=flat, places=places, spec=spec, sample=sample):
            given = list(flat)
            for i, tensor in zip(places, tensors):
                given[i] = tensor
            given = [v.clone() if isinstance(v, torch.Tensor) else v for v in given]
            first, args, kwargs = pytree.tree_unflatten(given, spec)
            return sample.output_process_fn_grad(op(first, *args, **kwargs))

        yield function, tuple(flat[i].detach() for i in places)


def sweep(op, dtype, count):
    checked = 0
    for function, inputs in calls(op, dtype, count):
        try:
            report = check_gradients(function, inputs, forward_mode=True)
        except GradcheckError:  # nothing differentiable comes out of this sample
            continue
        findings = [f for f in report.findings if f.code == "GC103"]
        assert not [f for f in findings if f.severity >= Severity.ERROR], findings
        for finding in findings:
            assert "a known defect of torch" in finding.hint
        assert not [u for u in report.unverified if "INTERNAL ASSERT" in u.reason]
        checked += 1
    return checked


@pytest.mark.parametrize("op", FEW, ids=name_of)
def test_operations_are_not_accused(op):
    sweep(op, torch.float64, 1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128], ids=str)
@pytest.mark.parametrize("op", OPS, ids=name_of)
def test_all_operations_are_not_accused(op, dtype):
    sweep(op, dtype, 2)


def test_the_sweep_covers_what_it_says():
    assert len(OPS) > 400
    assert sum(sweep(op, torch.float64, 1) for op in FEW[:6]) >= 4


@pytest.mark.parametrize("defect", FORWARD_DEFECTS, ids=lambda d: d.op)
def test_a_known_defect_is_still_there(defect):
    """When torch mends one, its entry is to go."""
    x = torch.tensor([-30.0, 0.0, 1.0], dtype=torch.float64)
    a = torch.tensor([[2.0, 0.5, 0.3], [0.4, 3.0, 0.7], [0.2, 0.6, 2.5]], dtype=torch.float64)
    b = torch.tensor([[1.0, 2.0], [0.5, 1.5], [3.0, 1.0]], dtype=torch.float64)
    function, inputs = {
        "aten::logcumsumexp": (functools.partial(torch.logcumsumexp, dim=0), (x,)),
        "aten::triangular_solve": (lambda a, b: torch.triangular_solve(b, a).solution, (a, b)),
        "aten::cholesky_inverse": (lambda a: torch.cholesky_inverse(a.tril()), (a,)),
    }[defect.op]
    report = check_gradients(function, inputs, forward_mode=True)
    (finding,) = [f for f in report.findings if f.code == "GC103"]
    assert finding.op == defect.op
    assert finding.severity is Severity.WARNING


def modules(dtype, count):
    for info in module_db[::count]:
        try:
            samples = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True)
        except Exception:  # some need a device or a library that is not here
            continue
        yield info, samples[0]


def check_module(info, sample, dtype):
    torch.manual_seed(0)
    made = sample.constructor_input
    try:
        module = info.module_cls(*made.args, **{**made.kwargs, "dtype": dtype})
    except TypeError:
        module = info.module_cls(*made.args, **made.kwargs)
    given = sample.forward_input
    args = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, given.args)
    kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, given.kwargs)
    try:
        report = check_gradients(module, args, kwargs=kwargs, forward_mode=True)
    except GradcheckError:
        return False
    errors = [f for f in report.findings if f.code == "GC103" and f.severity >= Severity.ERROR]
    assert not errors, (info.name, errors)
    return True


def test_modules_are_not_accused():
    dtype = torch.float64
    assert sum(check_module(info, sample, dtype) for info, sample in modules(dtype, 6)) > 8


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_all_modules_are_not_accused(dtype):
    assert sum(check_module(info, sample, dtype) for info, sample in modules(dtype, 1)) > 60
