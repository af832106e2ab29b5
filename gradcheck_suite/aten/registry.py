"""The table of meanings: which function says what an overload computes.

Append-only. In-place, ``out=`` and ``*_copy`` overloads need no entry: they are derived from the functional one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, final

from ..errors import GradcheckError

__all__ = [
    "RECORDED",
    "DuplicateMeaningError",
    "Meaning",
    "MeaningUnavailableError",
    "MeaningUndefinedError",
    "Mode",
    "Recorded",
    "functional_candidates",
    "known_names",
    "lookup",
    "meaning",
]

Mode = Literal["functional", "inplace", "out"]
F = TypeVar("F", bound=Callable[..., Any])


@final
class Recorded:
    """Type of :data:`RECORDED`: in place of an output it means "take torch's value, as a constant"."""

    def __repr__(self) -> str:
        return "RECORDED"


RECORDED: Final = Recorded()


class DuplicateMeaningError(GradcheckError, ValueError):
    """Two functions claim to be the meaning of one overload."""


class MeaningUnavailableError(GradcheckError, NotImplementedError):
    """A meaning does not cover these argument values; the replay treats the call as one without a meaning."""


class MeaningUndefinedError(MeaningUnavailableError):
    """torch leaves open what is right for these argument values: no witness is asked instead."""


@dataclass(frozen=True)
class Meaning:
    """What one ATen overload computes, written with engine operations.

    Attributes:
        name: the overload that was looked up, ``"aten::add_.Tensor"``.
        function: takes the arguments of the overload's schema (without ``out``); returns the outputs in order.
        mode: ``"functional"``; ``"inplace"``: the result is the new value of ``self``; ``"out"``: the results
            are the new values of the ``out`` arguments.
        uses_outputs: the function takes ``recorded``, the tuple of torch's own outputs (ndarray or None).
        family: name of the file it was written in, ``"matmul"``.
        source: ``"file:line"`` of the function.
        base: the overload it was written for; differs from ``name`` when derived.
        accuracy: relative error that torch's own derivative of this operation is known to have, where it is an
            approximation by design; 0 for every other one.
    """

    name: str
    function: Callable[..., Any]
    mode: Mode
    uses_outputs: bool
    family: str
    source: str
    base: str
    accuracy: float = 0.0


_MEANINGS: dict[str, Meaning] = {}


def _mode_of(name: str) -> Mode:
    """In place when torch's naming says so: ``relu_``, but not ``_unsafe_view`` or ``__and__``."""
    operation = name.partition("::")[2].partition(".")[0]
    return "inplace" if operation.endswith("_") and not operation.endswith("__") else "functional"


def meaning(
    *names: str, uses_outputs: bool = False, family: str | None = None, accuracy: float = 0.0
) -> Callable[[F], F]:
    """Declare the function to be what the named overloads compute.

    Args:
        names: overload names, ``"aten::add.Tensor"``; the default overload has no suffix, ``"aten::addmm"``.
        uses_outputs: the function takes an extra keyword ``recorded``: the tuple of torch's own outputs.
        family: heading for lists; default: the name of the file.
        accuracy: see :class:`Meaning`.

    Returns:
        A decorator that registers the function and returns it unchanged.

    Raises:
        ValueError: no name, or a name without a namespace.
        DuplicateMeaningError: an overload already has a meaning; names both places.
    """
    if not names:
        raise ValueError(
            "declaring a meaning failed: no overload was named. A meaning belongs to an overload. "
            'Write @meaning("aten::add.Tensor").'
        )

    def register(function: F) -> F:
        code = function.__code__
        module = function.__module__.rpartition(".")[2]
        source = f"{code.co_filename}:{code.co_firstlineno}"
        for name in names:
            if "::" not in name:
                raise ValueError(
                    f"declaring the meaning of {name!r} failed: the name has no namespace. "
                    f'Overloads are named as in their schema. Write "aten::{name}".'
                )
            earlier = _MEANINGS.get(name)
            if earlier is not None:
                raise DuplicateMeaningError(
                    f"declaring the meaning of {name} at {source} failed: it was already declared at "
                    f"{earlier.source}. One overload has one meaning. Remove one of the two."
                )
            _MEANINGS[name] = Meaning(
                name, function, _mode_of(name), uses_outputs, family or module, source, name, accuracy
            )
        return function

    return register


# Functional overload of an ``out=`` overload, where the name alone does not tell (torch: ``add.out`` is
# ``add.Tensor``, but ``exp.out`` is ``exp``). Tried in this order; the first known name is taken.
_OUT_SUFFIXES: Final[dict[str, tuple[str, ...]]] = {
    "out": ("", "Tensor", "dim", "self", "correction", "stable"),
    "out_mode": ("Tensor_mode",),
    "IntList_out": ("dim_IntList",),
    "int_out": ("dim_int",),
    "Tensor_out": ("Tensor", "Tensor_Tensor"),
    "Scalar_out": ("Scalar",),
    "dim_max": ("dim",),
    "dim_min": ("dim",),
    "dim_values": ("dim",),
    "dtype_out": ("ScalarOpt_dim_dtype",),
    "L": ("",),
    "U": ("",),
    "values": ("",),
    "values_stable": ("stable",),
    "grad_input": ("",),
    "unary_out": ("",),
}


# Overloads whose functional twin the rules of naming miss; None: there is none with these parameters.
_EXCEPTIONS: Final[dict[str, tuple[str, Mode] | None]] = {
    "aten::transpose_": ("aten::transpose.int", "inplace"),
    "aten::pow_.Tensor": ("aten::pow.Tensor_Tensor", "inplace"),
    "aten::pow_.Scalar": ("aten::pow.Tensor_Scalar", "inplace"),
    "aten::floor_divide_.Tensor": ("aten::floor_divide", "inplace"),
    "aten::ldexp_": ("aten::ldexp.Tensor", "inplace"),
    "aten::conj_physical_": ("aten::_conj_physical", "inplace"),
    "aten::max.out": ("aten::maximum", "out"),
    "aten::min.out": ("aten::minimum", "out"),
    "aten::mean.out": ("aten::mean.dim", "out"),
    "aten::std.out": None,
    "aten::var.out": None,
}


def functional_candidates(name: str) -> Iterator[tuple[str, Mode]]:
    """Names of functional overloads that an overload may be derived from, best first, with the mode."""
    if name in _EXCEPTIONS:
        exception = _EXCEPTIONS[name]
        if exception is not None:
            yield exception
        return
    namespace, _, rest = name.partition("::")
    operation, _, overload = rest.partition(".")

    def spell(op: str, suffix: str) -> str:
        return f"{namespace}::{op}.{suffix}" if suffix else f"{namespace}::{op}"

    if _mode_of(name) == "inplace":
        yield spell(operation[:-1], overload), "inplace"
    if operation.endswith("_copy") and operation != "_to_copy":
        yield spell(operation[: -len("_copy")], overload), "functional"
    if overload in _OUT_SUFFIXES:
        for suffix in _OUT_SUFFIXES[overload]:
            yield spell(operation, suffix), "out"
    if overload.endswith("_out"):
        yield spell(operation, overload[: -len("_out")]), "out"


def lookup(name: str) -> Meaning | None:
    """The meaning of an overload, written or derived, or None when there is none.

    Args:
        name: ``"aten::add_.Tensor"``; the default overload without suffix.
    """
    from . import load

    load()
    found = _MEANINGS.get(name)
    if found is not None:
        return found
    for candidate, mode in functional_candidates(name):
        base = _MEANINGS.get(candidate)
        if base is not None and base.mode == "functional":
            return Meaning(
                name,
                base.function,
                mode,
                base.uses_outputs,
                base.family,
                base.source,
                candidate,
                base.accuracy,
            )
    return None


def known_names() -> tuple[str, ...]:
    """Every overload that has an entry of its own, sorted; derived overloads are not listed."""
    from . import load

    load()
    return tuple(sorted(_MEANINGS))
