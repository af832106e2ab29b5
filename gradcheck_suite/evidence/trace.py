"""What the recorder saw: operations, autograd nodes, and the values that went through them.

Arrays are behind :class:`ArraySource`, so a trace can be kept without converting a tensor that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .finding import Location

__all__ = [
    "Array",
    "ArraySource",
    "ArrayValue",
    "Edge",
    "FunctionCall",
    "NodeRecord",
    "OpRecord",
    "Root",
    "TensorRef",
    "Trace",
]

Array: TypeAlias = NDArray[Any]


class ArraySource(Protocol):
    """A value as it was at one moment, convertible to NumPy on demand."""

    def array(self) -> Array:
        """The value: float16/bfloat16 as float32, every other dtype as it is; shape as recorded."""
        ...

    def wide(self) -> Array:
        """The value in double precision: float64 or complex128; integers and booleans as they are."""
        ...

    def identity(self) -> object:
        """Equal for two sources that look at the same memory in the same way, and so hold the same value."""
        ...


class ArrayValue:
    """An array that nobody recorded, as a value: a cotangent of our own, or what the engine computed."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    def array(self) -> Array:
        """The array itself."""
        return self._array

    def wide(self) -> Array:
        """The array in double precision; integers and booleans as they are."""
        wider = {"f": np.float64, "c": np.complex128}.get(self._array.dtype.kind)
        return self._array if wider is None else self._array.astype(wider, copy=False)

    def identity(self) -> object:
        """Itself: it shares its memory with no recorded value."""
        return self


@dataclass(eq=False, slots=True)
class TensorRef:
    """A tensor at one moment of the run: the same tensor after an in-place write is another ref.

    Two refs with the same storage, epoch and geometry have the same contents, whatever tensor object they came
    from; whether a gradient connects them is another question, answered by ``edge``.

    Attributes:
        storage: number of the memory it lives in; equal for views of each other.
        epoch: how many recorded writes the memory had seen.
        shape: sizes.
        strides: in elements.
        offset: in elements, from the start of the storage.
        dtype: ``"float32"``, ``"bfloat16"``, ``"int64"``, ...
        device: ``"cpu"``, ``"cuda:0"``.
        requires_grad: whether autograd tracked it when it was used.
        source: its contents.
        known: False when nothing in the recording (op, input, parameter, earlier memory) explains where its
            contents come from, as for ``torch.from_numpy`` of an array made in between.
        edge: the gradient edge (node key, slot) that autograd holds for it, or None; leaves have negative keys.
        lazy: ``"conj"``, ``"neg"`` or both: memory is to be read conjugated or negated (torch's lazy bits).
    """

    storage: int
    epoch: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: str
    device: str
    requires_grad: bool
    source: ArraySource
    known: bool = True
    edge: tuple[int, int] | None = None
    lazy: str = ""

    @property
    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Shape, strides and offset: what tells apart two views of one memory."""
        return self.shape, self.strides, self.offset

    def describe(self) -> str:
        """``"float32[3, 4]"``."""
        return f"{self.dtype}{list(self.shape)}"


@dataclass(eq=False, slots=True)
class FunctionCall:
    """One call of a custom ``autograd.Function``: its forward's operations belong to one node.

    Attributes:
        number: running number of the call.
        name: class name.
        location: the user's line that called ``apply``.
        backward: line of the class's ``backward``, or None when it cannot be found.
        surrogate: reason why its backward is declared not to be the derivative, or "".
        shared_memory: which of its inputs look at one memory with different histories, or "".
    """

    number: int
    name: str
    location: Location | None
    backward: Location | None = None
    surrogate: str = ""
    shared_memory: str = ""


@dataclass(eq=False, slots=True)
class OpRecord:
    """One ATen operation as it was dispatched below autograd.

    Attributes:
        index: position in the run.
        name: overload name, ``"aten::add.Tensor"``, ``"aten::addmm"`` (default overload without suffix).
        args: positional arguments; tensors as TensorRef, dtypes as strings, the rest as Python values.
        kwargs: keyword arguments, likewise.
        outputs: flat outputs; tensors as TensorRef, the rest as Python values.
        written: for in-place and ``out=`` operations: (ref before, ref after) of every tensor written.
        location: the user's line.
        module: dotted module path.
        function: the custom Function call inside whose forward it ran, or None.
        grad_enabled: whether grad mode was on.
        random: the operation draws random numbers.
        phase: ``"forward"`` or ``"backward"``.
    """

    index: int
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Any, ...]
    written: tuple[tuple[TensorRef, TensorRef], ...]
    location: Location | None
    module: str
    function: FunctionCall | None
    grad_enabled: bool
    random: bool = False
    phase: str = "forward"


@dataclass(frozen=True)
class Edge:
    """Where a node sends one of its gradients: slot ``slot`` of node ``node``."""

    node: int
    slot: int


@dataclass(eq=False)
class NodeRecord:
    """One autograd node, the operations it differentiates, and what went in and out of its backward.

    Attributes:
        key: number of the node.
        name: torch's name, ``"AddmmBackward0"``.
        ops: the operations of its forward; empty when the recorder could not tell.
        role: ``"op"``, ``"function"`` (custom), ``"leaf"`` (AccumulateGrad), ``"write-through-view"``
            (CopySlices), ``"view-of-written"`` (a view re-read after a write to its base), or ``"unknown"``.
        edges: for each gradient it returns: where it goes, or None when nothing needs it.
        inputs: for each edge: the value the gradient belongs to, or None when unknown.
        outputs: for each slot: the value the node produced, or None when unknown.
        base: for the two roles about views: the base as it was before the write (write-through-view) or when it
            was re-read (view-of-written).
        cotangents: what torch delivered, per slot; None where undefined (taken as zero).
        gradients: what torch's node returned, per edge; None where undefined.
        ran: whether the node ran in the backward.
        leaf_name: for a leaf: the parameter's or input's name.
        function: the custom Function call, or None.
        location, module: of the op that made it.
        sequence: position of its first op in the run (or its number when it has none).
    """

    key: int
    name: str
    ops: tuple[OpRecord, ...] = ()
    role: str = "unknown"
    edges: tuple[Edge | None, ...] = ()
    inputs: tuple[TensorRef | None, ...] = ()
    outputs: tuple[TensorRef | None, ...] = ()
    base: TensorRef | None = None
    cotangents: tuple[ArraySource | None, ...] = ()
    gradients: tuple[ArraySource | None, ...] = ()
    ran: bool = False
    leaf_name: str = ""
    function: FunctionCall | None = None
    location: Location | None = None
    module: str = ""
    sequence: int = 0


@dataclass(frozen=True, eq=False)
class Root:
    """Where a backward started: slot ``slot`` of node ``node`` received ``cotangent``."""

    node: int
    slot: int
    cotangent: ArraySource
    value: TensorRef | None = None


@dataclass(eq=False)
class Trace:
    """A forward and a backward as they really happened.

    Attributes:
        ops: every recorded operation in order.
        nodes: autograd nodes reachable from the roots, by key.
        roots: where the backward started.
        leaves: key of the leaf node by name of parameter or input.
        leaf_gradients: the gradient torch returned for each leaf by name; None where it returned none.
        leaf_values: value of each leaf by name when the forward began.
    """

    ops: Sequence[OpRecord]
    nodes: dict[int, NodeRecord]
    roots: tuple[Root, ...]
    leaves: dict[str, int] = field(default_factory=dict)
    leaf_gradients: dict[str, ArraySource | None] = field(default_factory=dict)
    leaf_values: dict[str, TensorRef] = field(default_factory=dict)
