"""Running a function in float64 whatever dtypes its code spells out, and noticing where precision is lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["WIDER", "InFloat64", "PrecisionProbe", "Results"]

WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_WIDER_METHOD: dict[Any, Any] = {
    Tensor.float: Tensor.double,
    Tensor.half: Tensor.double,
    Tensor.bfloat16: Tensor.double,
}
# Here a dtype says how to read bytes, not how precisely to compute.
_REINTERPRETING = {torch.Tensor.view, torch.frombuffer, torch.from_file}


class InFloat64(TorchFunctionMode):
    """Casts to a lower precision that the model spells out become casts to float64, and constants follow.

    A Llama normalises in ``x.to(torch.float32)``: in float64 that would be a *loss* of precision, and the
    differences would drown in its rounding.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        func = _WIDER_METHOD.get(func, func)
        if func in _REINTERPRETING:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        writes = "out" in kwargs or name.endswith("_") or name.startswith("__i") or name == "__set__"
        tensors = [x for x in self._flat(args, kwargs) if isinstance(x, Tensor)]
        mixed = len(tensors) > 1 and not writes and len({t.dtype in WIDER for t in tensors}) == 2
        mixed = mixed and any(t.dtype in (torch.float64, torch.complex128) for t in tensors)

        def widen(x: Any) -> Any:
            if isinstance(x, torch.dtype):
                return WIDER.get(x, x)
            if mixed and isinstance(x, Tensor) and x.dtype in WIDER:
                return x.to(WIDER[x.dtype])
            if mixed and type(x) in (list, tuple):
                return type(x)(widen(y) for y in x)
            return x

        return func(*map(widen, args), **{key: widen(value) for key, value in kwargs.items()})

    @staticmethod
    def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        flat: list[Any] = []
        for x in (*args, *kwargs.values()):
            flat.extend(x) if type(x) in (list, tuple) else flat.append(x)
        return flat


class PrecisionProbe(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The coarsest real dtype that a value depending on the leaves passes through.

    Memory is what is followed, so that ``detach`` hides nothing. Masks and indices are not followed: they are
    exact.
    """

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.coarsest = torch.float64
        # The storages are held on to: a freed one's number would be given to another.
        self._followed = {s._cdata: s for leaf in leaves for s in (leaf.untyped_storage(),)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        depends = any(self._is_followed(x) for x in _pytree.tree_leaves((args, kwargs)))
        result = func(*args, **kwargs)
        if depends:
            for x in _pytree.tree_leaves(result):
                if (
                    isinstance(x, Tensor)
                    and (x.is_floating_point() or x.is_complex())
                    and x.layout is torch.strided
                ):
                    storage = x.untyped_storage()
                    self._followed[storage._cdata] = storage
                    real = x.dtype.to_real() if x.is_complex() else x.dtype
                    if torch.finfo(real).eps > torch.finfo(self.coarsest).eps:
                        self.coarsest = real
        return result

    def _is_followed(self, x: Any) -> bool:
        return (
            isinstance(x, Tensor)
            and x.layout is torch.strided
            and x.untyped_storage()._cdata in self._followed
        )


# What they make is small beside the 1 that it was computed from: log(1 + t) is known to an eps, not to an eps of itself.
_BESIDE_ONE = frozenset(
    (
        "_log_softmax",
        "binary_cross_entropy_with_logits",
        "log_sigmoid_forward",
        "logaddexp",
        "logaddexp2",
        "softplus",
    )
)
# Where the slope of a cross entropy is no derivative any more, and a step away from there.
_SATURATED = 1e-10


class Results(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What every operation made, with how large the numbers were that were rounded on the way to each element."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found: list[tuple[Tensor, float]] = []
        self.by_design = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.binary_cross_entropy.default and args[0].requires_grad:
            share = args[0].detach()
            if bool((share * (1 - share) < _SATURATED).any()):
                self.by_design = (
                    "binary_cross_entropy stops at -100 and bounds its slope where x (1 - x) is below 1e-12: by design its "
                    "backward is not the derivative of its forward there"
                )
        least = 1.0 if func.__name__.partition(".")[0] in _BESIDE_ONE else 0.0
        for x in _pytree.tree_leaves(result):
            if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()):
                self._found.append((x, least))
        return result

    def noise(self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> float:
        """Standard size of what one rounding of each element of each result does to ``sum <cotangent, output>``.

        First-order error analysis; Higham, "Accuracy and Stability of Numerical Algorithms", 2002, sections 1.6 and 3.
        """
        tracked = [(x, least) for x, least in self._found if x.requires_grad and x.layout is torch.strided]
        if not tracked:
            return 0.0
        found = torch.autograd.grad(
            outputs, [x for x, _ in tracked], cotangents, allow_unused=True, materialize_grads=False
        )
        total = 0.0
        for (x, least), g in zip(tracked, found):
            if g is not None:
                size = x.detach().abs().clamp(min=least) * g.detach().abs()
                unit = float(torch.linalg.vector_norm(size[torch.isfinite(size)])) * torch.finfo(x.dtype).eps
                total += unit * unit
        return math.sqrt(total)
