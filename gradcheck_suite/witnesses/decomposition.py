"""What an operation without a meaning is made of, by torch's own decomposition of it.

The decomposition is run once, on the inputs that were recorded, under a recorder of its own; the engine then
differentiates the recorded operations. Its forward value is compared with the recorded one like any other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from ..aten import Meaning
from ..aten.registry import functional_candidates
from ..capture.recorder import Recorder
from ..capture.values import TensorValue
from ..evidence import OpRecord, TensorRef
from ..replay.memory import is_differentiable
from ..replay.segment import Segment, tensors_in

__all__ = ["Decompositions", "overload_of", "torch_arguments"]


class Decompositions:
    """Finds the segment of an operation, and remembers it. Called with an operation it gives a meaning, or None.

    Attributes:
        used: names of the operations that were answered for.
        refusals: why an operation was not, by its name.
    """

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.refusals: dict[str, str] = {}
        self._known: dict[int, tuple[OpRecord, Meaning | None]] = {}

    def __call__(self, op: OpRecord) -> Meaning | None:
        known = self._known.get(id(op))
        if known is None or known[0] is not op:
            known = self._known[id(op)] = (op, self._find(op))
        if known[1] is not None:
            self.used.add(op.name)
        return known[1]

    def _find(self, op: OpRecord) -> Meaning | None:
        if op.random:
            self.refusals[op.name] = "it draws random numbers, so its decomposition would draw others"
            return None
        for name, mode in [(op.name, None), *functional_candidates(op.name)]:
            overload = overload_of(name)
            if overload is None:
                continue
            function = _decomposition(overload)
            if function is None or (mode is None and overload._schema.is_mutable):
                continue
            segment = self._record(op, overload, function, mode == "out")
            if segment is not None:
                return Meaning(op.name, segment, mode or "functional", False, "decomposition", "torch", name)
        self.refusals.setdefault(op.name, "torch has no decomposition of it")
        return None

    def _record(
        self, op: OpRecord, overload: Any, function: Callable[..., Any], without_out: bool
    ) -> Segment | None:
        kwargs = dict(op.kwargs)
        if without_out:
            for name in [k for k, v in kwargs.items() if any(before is v for before, _ in op.written)]:
                del kwargs[name]
        try:
            real_args, real_kwargs = torch_arguments(overload, op.args, kwargs)
        except (KeyError, TypeError, ValueError) as error:
            self.refusals[op.name] = f"its arguments could not be rebuilt: {error}"
            return None
        given = tensors_in((real_args, real_kwargs), torch.Tensor)
        recorder = Recorder(known=given)
        try:
            # Grad mode is on, so that no frame is searched for a running custom Function; nothing requires grad.
            with warnings.catch_warnings(), torch.enable_grad(), recorder:
                warnings.simplefilter("ignore")
                refs = [recorder.register(t) for t in given]
                result = function(*real_args, **real_kwargs)
                flat = list(result) if isinstance(result, list | tuple) else [result]
                outputs = [recorder.register(o) if isinstance(o, torch.Tensor) else None for o in flat]
            recorder.finish_forward()
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AssertionError) as error:
            self.refusals[op.name] = f"torch's decomposition raised {type(error).__name__}: {error}"
            return None
        for inner in recorder.ops:
            if inner.name == op.name:
                self.refusals[op.name] = "torch's decomposition uses the operation itself"
                return None
            if inner.name == "aten::_local_scalar_dense" and is_differentiable(inner.args[0].dtype):
                self.refusals[op.name] = "torch's decomposition reads a tensor as a Python number"
                return None
        return Segment(op.name, recorder.ops, refs, outputs)


@lru_cache(maxsize=1)
def _table() -> Mapping[Any, Callable[..., Any]]:
    # Importing it takes a second, which only those pay who need it.
    from torch._decomp import core_aten_decompositions, decomposition_table

    return {**decomposition_table, **core_aten_decompositions()}


def _decomposition(overload: Any) -> Callable[..., Any] | None:
    found = _table().get(overload)
    if found is not None:
        return found
    if torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), "CompositeImplicitAutograd"):
        return overload.decompose  # type: ignore[no-any-return]
    return None


def overload_of(name: str) -> Any | None:
    """``torch.ops.aten.add.Tensor`` of ``"aten::add.Tensor"``; None when this torch has no such overload."""
    namespace, _, rest = name.partition("::")
    operation, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), operation, None)
    return None if packet is None else getattr(packet, overload or "default", None)


def torch_arguments(
    overload: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    replace: Mapping[int, torch.Tensor] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments that torch had, as they were recorded, ready for another call.

    Args:
        overload: whose schema tells a dtype from a string.
        args, kwargs: as recorded.
        replace: other tensors in place of recorded ones, by ``id`` of the recorded value.

    Raises:
        ValueError: a value was recorded as text that cannot be read back.
    """
    schema = {a.name: a for a in overload._schema.arguments}
    names = list(schema)
    given = replace or {}

    def rebuild(value: Any, kind: str) -> Any:
        if isinstance(value, TensorRef):
            return given[id(value)] if id(value) in given else torch_tensor(value)
        if isinstance(value, list | tuple):
            return [rebuild(item, kind) for item in value]
        if isinstance(value, str) and "str" not in kind:
            return _read_back(value)
        return value

    positional = [rebuild(value, str(schema[names[i]].real_type)) for i, value in enumerate(args)]
    return positional, {k: rebuild(v, str(schema[k].real_type)) for k, v in kwargs.items()}


def torch_tensor(ref: TensorRef) -> torch.Tensor:
    """A copy of a recorded tensor, as it was."""
    source = ref.source
    if not isinstance(source, TensorValue):
        raise ValueError(f"a {ref.describe()} value is not kept as a torch tensor")
    with torch.no_grad():
        return source.tensor.detach().clone()


def _read_back(text: str) -> Any:
    """A dtype, layout, memory format or device from the text that stands for it in a recording."""
    value = getattr(torch, text.removeprefix("torch."), None)
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return value
    if "Generator" in text:
        return None
    return torch.device(text)
