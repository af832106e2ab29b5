"""`Tensor`: an ndarray and where it came from in the graph; its gradient, its hooks, writes in place.

The operators on it are in `operators.py`, where a differentiation starts and ends in `endpoints.py`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import EngineError
from .modes import THREAD
from .operators import Operators, plain_index
from .registry import PRIMITIVES
from .tape import Edge, Hook, HookHandle, Leaf, Node

Array = NDArray[Any]


Version = list[Any]
"""[count of in-place writes, whether another tensor looks at the same buffer, last writer]: a plain list,
because one is made per tensor."""


@final
class Tensor(Operators):
    """An n-dimensional array that remembers how it was computed.

    `data` is anything `np.asarray` takes; an ndarray is wrapped, not copied, so in-place methods
    write into it. Python floats become float64. float16/32/64 and complex64/128 can require grad; asking
    it of any other dtype raises EngineError.

    Indexing and reshaping return values, never views that follow later writes: a buffer that two
    tensors share is copied by the first in-place write (`detach` excepted, which stays an alias and
    shares the version counter). Writes through `.data` are seen by nobody, as in torch.
    """

    __slots__ = (
        "__weakref__",
        "_edge",
        "_hooks",
        "_label",
        "_leaf",
        "_requires_grad",
        "_tangents",
        "_version",
        "data",
        "grad",
    )

    __array_ufunc__ = None  # ndarray * Tensor comes to Tensor.__rmul__
    __array_priority__ = 1000.0

    data: Array
    grad: Tensor | None
    _edge: Edge | None
    _hooks: list[HookHandle] | None
    _label: str | None
    _leaf: weakref.ref[Leaf] | None
    _requires_grad: bool
    _tangents: dict[int, Tensor] | None
    _version: Version

    def __init__(
        self,
        data: ArrayLike | Tensor,
        requires_grad: bool = False,
        dtype: DTypeLike | None = None,
        label: str | None = None,
    ) -> None:
        self.data = np.asarray(data.data if isinstance(data, Tensor) else data, dtype=dtype)
        if self.data.dtype == object:
            raise EngineError(
                f"making a Tensor from {type(data).__name__} failed: NumPy reads it as an array of objects. "
                f"The engine computes with numbers. Pass numbers, a regular nested list or an ndarray "
                f"(stack() joins Tensors)."
            )
        self._start()
        self._label = label
        if requires_grad:
            self.requires_grad_()

    def _start(self) -> None:
        self._edge = None
        self._requires_grad = False
        self._version = [0, False, None]
        self.grad = None
        self._label = None
        self._leaf = None
        self._hooks = None
        self._tangents = None

    # ---- what it is --------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def version(self) -> int:
        """How often the tensor (or a detached alias) was written in place."""
        return int(self._version[0])

    @property
    def label(self) -> str | None:
        """A name for printouts and messages."""
        return self._label

    @label.setter
    def label(self, label: str | None) -> None:
        self._label = label
        if self._edge is not None:
            self._edge[0].label = label

    @property
    def grad_fn(self) -> Node | None:
        """The node that made this tensor; None for leaves."""
        return None if self._edge is None else self._edge[0]

    @property
    def is_leaf(self) -> bool:
        """True when no recorded operation made it."""
        return self._edge is None

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        if self._edge is not None:
            if flag:
                return
            raise EngineError(
                f"setting requires_grad=False on {describe(self)} failed: it was made by "
                f"{self._edge[0].name} and is not a leaf. Only leaves choose whether they require grad. "
                f"Use detach() for a copy without history."
            )
        if flag and self.data.dtype.kind not in "fc":
            raise EngineError(
                f"setting requires_grad=True on {describe(self)} failed: its dtype is {self.data.dtype}. "
                f"Only floating and complex tensors have derivatives. Convert it, for example with "
                f"dtype='float64'."
            )
        self._requires_grad = bool(flag)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor itself."""
        self.requires_grad = requires_grad
        return self

    def item(self) -> Any:
        """The value of a tensor of one element, as a Python number."""
        return self.data.item()

    def numpy(self) -> Array:
        """The ndarray itself (no copy); raises EngineError when the tensor requires grad."""
        if self._requires_grad:
            raise EngineError(
                f"converting {describe(self)} to an ndarray failed: it requires grad. What NumPy computes "
                f"from it would be cut off the graph unnoticed. Use detach().numpy(), or .data to look."
            )
        return self.data

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        data = self.numpy()
        if dtype is not None and data.dtype != dtype:
            return data.astype(dtype)
        return data.copy() if copy else data

    def __repr__(self) -> str:
        from .printing import summary

        return summary(self)

    # ---- the graph ---------------------------------------------------------------------------------

    def _gradient_edge(self) -> Edge:
        """Where a cotangent of this tensor goes: its node, or the node of the leaf."""
        if self._edge is not None:
            return self._edge
        leaf = self._leaf() if self._leaf is not None else None
        if leaf is None:
            leaf = Leaf(self)
            self._leaf = weakref.ref(leaf)
        return leaf, 0

    def _accumulate(self, cotangent: Tensor, keep_graph: bool, owned: bool) -> None:
        """Add to `.grad`; a gradient that nobody else holds (`owned`) is taken without a copy."""
        if self.grad is not None and self.grad.data.shape != self.data.shape:
            raise EngineError(
                f"adding to .grad of {describe(self)} failed: its .grad was set to a tensor of shape "
                f"{self.grad.data.shape}. A gradient has the shape of its tensor. Set .grad to None or to zeros of that shape."
            )
        if keep_graph or THREAD.mode.levels:
            self.grad = cotangent if self.grad is None else PRIMITIVES["add"](self.grad, cotangent)
        elif self.grad is None:
            self.grad = wrap(cotangent.data if owned else np.array(cotangent.data))
        elif self.grad._requires_grad or not self.grad.data.flags.writeable or self.grad._version[1]:
            self.grad = wrap(np.add(self.grad.data, cotangent.data))
        else:
            self.grad.data[...] += cotangent.data
            self.grad._version[0] += 1
            self.grad._version[2] = "backward"

    def backward(
        self,
        cotangent: Tensor | ArrayLike | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf (or of `inputs` only).

        `cotangent` has this tensor's shape and may be left out for one real element. The values saved
        for the backward are freed unless `retain_graph` (default: `create_graph`). Raises EngineError,
        GraphFreedError, InplaceError, NotDifferentiableError.
        """
        from .endpoints import backward_from

        backward_from(self, cotangent, retain_graph, create_graph, inputs)

    def detach(self) -> Tensor:
        """The same buffer without history; shares the version counter, so writes to it are noticed."""
        alias = wrap(self.data)
        alias._version = self._version
        alias._label = self._label
        return alias

    def retain_grad(self) -> None:
        """Let `backward` fill `.grad` of this tensor although it is not a leaf."""
        if not self._requires_grad:
            raise EngineError(
                f"retain_grad of {describe(self)} failed: it does not require grad. No gradient will arrive "
                f"at it. Set requires_grad on the inputs before computing."
            )
        if self._edge is not None:
            node, index = self._edge
            node.retained = {**(node.retained or {}), index: weakref.ref(self)}

    def register_hook(self, hook: Hook) -> HookHandle:
        """Call `hook(gradient)` once the complete gradient of this tensor is known.

        What it returns, unless None, replaces the gradient. Returns a handle with `remove()`.
        """
        if not self._requires_grad:
            raise EngineError(
                f"registering a hook on {describe(self)} failed: it does not require grad. The hook would "
                f"never be called. Set requires_grad first."
            )
        if self._edge is None:
            if self._hooks is None:
                self._hooks = []
            return HookHandle(hook, self._hooks)
        node, index = self._edge
        if node.hooks is None:
            node.hooks = {}
        return HookHandle(hook, node.hooks.setdefault(index, []))

    # ---- in place ----------------------------------------------------------------------------------

    def _write(self, method: str, primitive: str, *operands: Any, **static: Any) -> Tensor:
        """Replace this tensor's value by `primitive(self, *operands)` and move it along in the graph.

        A recorded write gets a fresh buffer, so what the node needs of the old value survives; an
        unrecorded one writes into the buffer, unless another tensor looks at it.
        """
        if self._edge is None and self._requires_grad and THREAD.mode.grad:
            raise EngineError(
                f"{method} on {describe(self)} failed: it is a leaf that requires grad. Overwriting it "
                f"would lose the value at which its gradient is taken. Write under no_grad(), or use the "
                f"out-of-place form."
            )
        before = shadow(self)
        after: Tensor = PRIMITIVES[primitive](before, *operands, **static)
        if after.data.shape != self.data.shape:
            raise EngineError(
                f"{method} on {describe(self)} failed: the result has shape {after.data.shape}. A write in "
                f"place cannot change the shape. Use the out-of-place form."
            )
        if after.data.dtype != self.data.dtype:
            if not np.can_cast(after.data.dtype, self.data.dtype, "same_kind"):
                raise EngineError(
                    f"{method} on {describe(self)} failed: the result has dtype {after.data.dtype}. A write "
                    f"in place cannot change the dtype. Use the out-of-place form."
                )
            after = PRIMITIVES["cast"](after, dtype=self.data.dtype.name)
        if after._requires_grad:
            self.data = np.array(after.data) if np.may_share_memory(after.data, before.data) else after.data
            self._edge = after._edge
            self._requires_grad = True
            self._version = [self._version[0], False, None] if self._version[1] else self._version
            if self._label is not None:
                self.label = self._label
        elif self._version[1] or not self.data.flags.writeable:
            self.data = np.array(after.data)
            self._version = [self._version[0], False, None]
        else:
            np.copyto(self.data, after.data)
        self._tangents = after._tangents
        self._version[0] += 1
        self._version[2] = method
        return self

    def add_(self, other: Any) -> Tensor:
        return self._write("add_", "add", other)

    def sub_(self, other: Any) -> Tensor:
        return self._write("sub_", "subtract", other)

    def mul_(self, other: Any) -> Tensor:
        return self._write("mul_", "multiply", other)

    def div_(self, other: Any) -> Tensor:
        return self._write("div_", "divide", other)

    def copy_(self, other: Any) -> Tensor:
        return self._write("copy_", "setitem", other, index=...)

    def fill_(self, value: Any) -> Tensor:
        return self._write("fill_", "setitem", value, index=...)

    def zero_(self) -> Tensor:
        return self._write("zero_", "setitem", 0, index=...)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._write("__setitem__", "setitem", value, index=plain_index(index))

    __iadd__ = add_
    __isub__ = sub_
    __imul__ = mul_
    __itruediv__ = div_


def tensor(
    data: ArrayLike | Tensor,
    requires_grad: bool = False,
    dtype: DTypeLike | None = None,
    label: str | None = None,
) -> Tensor:
    """The same as `Tensor(...)`."""
    return Tensor(data, requires_grad, dtype, label)


_new = Tensor.__new__


def wrap(data: Array) -> Tensor:
    """A constant tensor around an ndarray, without the constructor's conversions."""
    made = _new(Tensor)
    made.data = data
    made._requires_grad = False
    made._version = [0, False, None]
    made.grad = made._edge = made._label = made._leaf = made._hooks = made._tangents = None
    return made


def shadow(source: Tensor, tangents: dict[int, Tensor] | bool | None = True) -> Tensor:
    """A second tensor with the same buffer and place in the graph, and a version counter of its own.

    `tangents`: True keeps the source's forward-mode tangents, otherwise those to carry instead.
    """
    twin = wrap(source.data)
    twin._label = source._label
    twin._tangents = source._tangents if tangents is True else tangents or None
    if source._requires_grad:
        twin._requires_grad = True
        twin._edge = source._gradient_edge()
    return twin


def describe(subject: Tensor) -> str:
    """Label, shape and dtype of a tensor, for messages."""
    name = f"tensor {subject._label!r}" if subject._label is not None else "a tensor"
    return f"{name} of shape {subject.data.shape}, {subject.data.dtype}"
