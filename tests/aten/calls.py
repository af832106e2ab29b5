"""Calls of ATen operations as torch really makes them, and what a meaning makes of the same arguments."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gradcheck_suite.aten import RECORDED, Meaning, lookup
from gradcheck_suite.engine import Tensor

# torch's own precision where it is less than the dtype's: float32 constants, polynomials of few terms.
IMPRECISE = {
    "aten::hardsigmoid_backward": 1e-7,
    "aten::special_bessel_j0": 1e-6,
    "aten::special_bessel_j1": 1e-6,
    "aten::special_bessel_y0": 1e-6,
    "aten::special_bessel_y1": 1e-6,
}

# Complex logarithms of running sums: the imaginary part is one of many that differ by 2 pi.
MODULO_2_PI = {"aten::logcumsumexp"}


def name_of(overload: Any) -> str:
    """``"aten::add.Tensor"`` of ``torch.ops.aten.add.Tensor``."""
    schema = overload._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name


def overload_of(name: str) -> Any:
    """``torch.ops.aten.add.Tensor`` of ``"aten::add.Tensor"``."""
    namespace, _, rest = name.partition("::")
    operation, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), operation), overload or "default")


def snapshot(value: Any) -> Any:
    """Tensors replaced by copies that nobody writes to."""
    return tree_map(lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v, value)


@dataclass(frozen=True)
class Call:
    """One call: arguments as they were before, outputs and written arguments as they were after."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Any, ...]
    schema: Any

    def __str__(self) -> str:
        return f"{self.name}({describe(self.args)}, {describe(self.kwargs)})"


def describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(describe(v) for v in value) + ")"
    if isinstance(value, dict):
        return ", ".join(f"{k}={describe(v)}" for k, v in value.items())
    return repr(value)


def undisturbed(func: Any, args: Any, kwargs: Any) -> Any:
    """The call as it runs without a mode.

    Inside a mode's handler torch leaves out the handling of lazy conjugation: a kernel that multiplies by a
    conjugate transpose of its own (``linalg_pinv``, ``linalg_polar``) then gets complex results wrong.
    """
    include = torch._C._dispatch_tls_local_include_set()
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
        exclude = exclude.remove(key)
    with torch._C._ForceDispatchKeyGuard(include, exclude):
        return func(*args, **kwargs)


class Recorder(TorchDispatchMode):
    """Keeps up to ``per_overload`` calls of different form of every overload that has a meaning."""

    def __init__(self, per_overload: int = 6, elements: int = 20_000) -> None:
        super().__init__()
        self.calls: dict[str, dict[str, Call]] = {}
        self.seen: set[str] = set()
        self.per_overload = per_overload
        self.elements = elements

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        self.seen.add(name)
        known = self.calls.setdefault(name, {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if (
            len(known) >= self.per_overload
            or any(t.layout != torch.strided or t.is_nested for t in tensors)
            or sum(t.numel() for t in tensors) > self.elements
            or lookup(name) is None
        ):
            return undisturbed(func, args, kwargs)
        before = snapshot((args, kwargs))
        result = undisturbed(func, args, kwargs)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        if all(o.layout == torch.strided for o in outputs if isinstance(o, torch.Tensor)):
            call = Call(name, tuple(before[0]), before[1], tuple(snapshot(outputs)), func._schema)
            known.setdefault(form(call), call)
        return result


def form(call: Call) -> str:
    """Calls that differ only in numbers have the same form."""

    def short(value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return f"{value.dtype}/{value.ndim}/{min(value.shape, default=1)}"
        if isinstance(value, float):
            return "float"
        if isinstance(value, (list, tuple)):
            return "(" + ",".join(short(v) for v in value) + ")"
        return repr(value)

    return short(call.args) + short(list(call.kwargs.items()))


def to_array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    elif tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    return np.array(tensor.contiguous().numpy())


def to_engine(value: Any, requires_grad: bool = False) -> Any:
    """The argument as a meaning gets it."""
    if isinstance(value, torch.Tensor):
        array = to_array(value)
        if array.dtype.kind == "f":
            return Tensor(array.astype(np.float64), requires_grad=requires_grad)
        if array.dtype.kind == "c":
            return Tensor(array.astype(np.complex128), requires_grad=requires_grad)
        return array
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (torch.layout, torch.memory_format, torch.device)):
        return str(value)
    if isinstance(value, list):
        return [to_engine(v, requires_grad) for v in value]
    if isinstance(value, tuple):
        return tuple(to_engine(v, requires_grad) for v in value)
    return value


def without_out(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments without the ``out=`` ones."""
    outs = {a.name for a in call.schema.arguments if a.is_out}
    return call.args, {k: v for k, v in call.kwargs.items() if k not in outs}


def evaluate(meaning: Meaning, call: Call, requires_grad: bool = False) -> tuple[tuple[Any, ...], Any, Any]:
    """What the meaning makes of a call: its outputs, and the converted arguments."""
    args, kwargs = without_out(call)
    args, kwargs = to_engine(args, requires_grad), {k: to_engine(v, requires_grad) for k, v in kwargs.items()}
    extra = {}
    if meaning.uses_outputs:
        extra["recorded"] = tuple(to_array(o) if isinstance(o, torch.Tensor) else None for o in call.outputs)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        result = meaning.function(*args, **kwargs, **extra)
    return (tuple(result) if isinstance(result, (tuple, list)) else (result,)), args, kwargs


def tolerance(call: Call) -> float:
    """Relative to the largest entry: double precision unless the call has a tensor of less."""
    tensors = [t for t in tree_leaves((call.args, call.kwargs, call.outputs)) if isinstance(t, torch.Tensor)]
    eps = max(
        (torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point() or t.is_complex()), default=0
    )
    return 2e-9 if eps < 1e-10 else 4e3 * math.sqrt(eps) * math.sqrt(eps)


def disagreements(meaning: Meaning, call: Call) -> Iterator[str]:
    """Where the outputs of the meaning are not torch's."""
    outputs, _, _ = evaluate(meaning, call)
    if len(outputs) != len(call.outputs):
        yield f"{call}: {len(outputs)} outputs, torch has {len(call.outputs)}"
        return
    for position, (mine, theirs) in enumerate(zip(outputs, call.outputs)):
        if mine is RECORDED or not isinstance(theirs, torch.Tensor):
            continue
        expected = to_array(theirs)
        if expected.dtype.kind not in "fc":
            continue
        got = mine.data if isinstance(mine, Tensor) else np.asarray(mine)
        if mine is None or got.shape != expected.shape:
            yield f"{call}: output {position} has shape {got.shape}, torch's {expected.shape}"
            continue
        finite = np.isfinite(expected)
        scale = float(np.abs(expected[finite]).max(initial=0.0)) if expected.dtype.kind in "fc" else 1.0
        # Below a millionth, what is left of larger numbers that cancel is compared absolutely.
        bound = IMPRECISE.get(meaning.name, tolerance(call)) * max(scale, 1e-6)
        same_kind = np.array_equal(finite, np.isfinite(got))
        with np.errstate(all="ignore"):
            error = np.abs(got - expected.astype(got.dtype if got.dtype.kind == "c" else expected.dtype))
        if meaning.name in MODULO_2_PI and got.dtype.kind == "c":
            turns = np.round((got - expected).imag / (2 * np.pi))
            error = np.abs(got - 2j * np.pi * turns - expected)
        if not same_kind or float(np.where(finite, error, 0.0).max(initial=0.0)) > bound:
            yield (
                f"{call}: output {position} is {got.ravel()[:6]}, torch's {expected.ravel()[:6]}; "
                f"largest error {np.where(finite, error, 0.0).max(initial=0.0):.3g}, bound {bound:.3g}"
            )


def reached(calls: dict[str, dict[str, Call]]) -> Iterable[str]:
    return (name for name, forms in calls.items() if forms)
