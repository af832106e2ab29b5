"""The graph that a computation leaves behind, and the pass that walks it backwards.

Nothing here knows an operation: a `Node` says where its inputs came from (`edges`) and how to pull a
cotangent back (`pull`). Cotangents are the engine's own tensors, so a pass that is itself recorded
(`create_graph`) can be differentiated again.

Complex numbers follow torch: for a real loss L the cotangent of z is dL/dRe(z) + i dL/dIm(z), so that
a holomorphic f pulls g back to g * conj(f').
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EngineError
from .modes import THREAD, Mode
from .registry import PRIMITIVES

if TYPE_CHECKING:
    from .tensor import Tensor

Meta = tuple[tuple[int, ...], "np.dtype[Any]"]
Hook = Callable[["Tensor"], "Tensor | None"]

_order = count()


class Node:
    """One executed operation (or leaf) in the graph.

    `edges` holds, for every input, the pair (node, output number) that produced it, or None when no
    gradient is wanted there. `order` grows with time: a node is younger than everything it was made
    from, so that sorting by it is a topological order, whatever the depth of the graph.
    """

    __slots__ = ("__weakref__", "edges", "hooks", "label", "metas", "order", "retained", "value")

    name = "node"

    def __init__(self, edges: tuple[Edge | None, ...], metas: tuple[Meta, ...]) -> None:
        self.edges = edges
        self.metas = metas  # shape and dtype of every output
        self.order = next(_order)
        self.hooks: dict[int, list[HookHandle]] | None = None
        self.retained: dict[int, weakref.ref[Tensor]] | None = None
        self.label: str | None = None
        self.value: np.ndarray[Any, Any] | None = None  # kept when 0-d, for the printout

    def pull(
        self, cotangents: list[Tensor | None], active: Sequence[bool] | None = None
    ) -> Sequence[Tensor | None]:
        """Cotangents of the inputs, one per edge, given those of the outputs (None: no gradient).

        `active` says for which edges this pass wants one; None: for all that there are.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Drop saved values; a later `pull` of a node that had some raises GraphFreedError."""

    def __repr__(self) -> str:
        return f"<{self.name} node {self.order}>"


Edge = tuple[Node, int]


class Leaf(Node):
    """The end of the graph at a tensor that requires grad: what arrives is added to its `.grad`."""

    __slots__ = ("tensor",)

    name = "leaf"

    def __init__(self, tensor: Tensor) -> None:
        super().__init__((), ((tensor.data.shape, tensor.data.dtype),))
        self.tensor = tensor


class HookHandle:
    """What registering a hook returns; `remove()` takes the hook away, and may be called twice."""

    __slots__ = ("_home", "hook")

    def __init__(self, hook: Hook, home: list[HookHandle]) -> None:
        self.hook = hook
        self._home = home
        home.append(self)

    def remove(self) -> None:
        if self in self._home:
            self._home.remove(self)


def reached(roots: Sequence[Node]) -> list[Node]:
    """Every node that the roots depend on, oldest first (a topological order)."""
    seen = set(roots)
    stack = list(seen)
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(seen, key=_age)


def _age(node: Node) -> int:
    return node.order


def fit(cotangent: Tensor, meta: Meta, producer: Node) -> Tensor:
    """The one place where a cotangent is brought to its tensor's shape and dtype.

    Undoes broadcasting (sums over the axes that were added or stretched), takes the real part when
    the tensor is real, and casts. Raises EngineError when the shape cannot come from broadcasting.
    """
    shape, dtype = meta
    data = cotangent.data
    if data.shape != shape:
        extra = data.ndim - len(shape)
        if extra < 0 or any(s not in (1, d) for s, d in zip(shape, data.shape[max(extra, 0) :])):
            raise EngineError(
                f"backward through {producer.name} failed: its VJP returned shape {data.shape} for an "
                f"argument of shape {shape}. Only axes that broadcasting added or stretched can be "
                f"summed away. Correct the VJP."
            )
        axes = tuple(i for i, d in enumerate(data.shape) if i < extra or (shape[i - extra] == 1 and d != 1))
        if axes:
            cotangent = PRIMITIVES["sum"](cotangent, axis=axes, keepdims=True)
        if extra:
            cotangent = PRIMITIVES["reshape"](cotangent, shape=shape)
    if data.dtype != dtype:
        if data.dtype.kind == "c" and dtype.kind != "c":
            cotangent = PRIMITIVES["real"](cotangent)
        if cotangent.data.dtype != dtype:
            cotangent = PRIMITIVES["cast"](cotangent, dtype=dtype.name)
    return cotangent


def run_backward(
    roots: Sequence[tuple[Edge, Tensor]],
    targets: Sequence[Edge] | None,
    *,
    retain_graph: bool,
    create_graph: bool,
) -> list[Tensor | None]:
    """Pull the roots' cotangents back through the graph.

    With `targets` None everything that arrives at a leaf is added to its `.grad`. Otherwise only the
    nodes that lead to a target run, nothing is added anywhere, and the cotangents of the targets are
    returned (None where no gradient arrives).
    """
    mode = THREAD.mode
    recording = mode.grad
    mode.grad = create_graph
    try:
        with np.errstate(all="ignore"):  # a pole in a derivative is an answer here, not a surprise
            return _run(mode, roots, targets, retain_graph, create_graph)
    finally:
        mode.grad = recording


def _run(
    mode: Mode,
    roots: Sequence[tuple[Edge, Tensor]],
    targets: Sequence[Edge] | None,
    retain_graph: bool,
    create_graph: bool,
) -> list[Tensor | None]:
    order = reached([edge[0] for edge, _ in roots])
    wanted = None if targets is None else {node for node, _ in targets}
    leads = None if wanted is None else _leads_to(wanted, order)
    captured: dict[Edge, Tensor] = {}
    pending: dict[Node, list[Tensor | None]] = {}
    # A sum made here and seen by nobody yet may be added to in place: ids of such tensors.
    own: set[int] | None = None if create_graph or mode.levels or mode.perturbation else set()

    for edge, root in roots:
        _add(mode, pending, edge, root, own)
    while order:
        node = order.pop()
        cotangents = pending.pop(node, None)
        if cotangents is None:
            continue
        if node.hooks is not None:
            for index, hooks in node.hooks.items():
                cotangents[index] = call_hooks(hooks, cotangents[index], node)
        if isinstance(node, Leaf):
            if node.tensor._hooks:
                cotangents[0] = call_hooks(node.tensor._hooks, cotangents[0], node)
            cotangent = cotangents[0]
            assert cotangent is not None
            if wanted is None:
                owned = own is not None and id(cotangent) in own and not node.tensor._hooks
                node.tensor._accumulate(cotangent, create_graph, owned)
        if wanted is None and node.retained is not None:
            for index, reference in node.retained.items():
                tensor, arrived = reference(), cotangents[index]
                if tensor is not None and arrived is not None:
                    tensor._accumulate(arrived, create_graph, False)
        if wanted is not None and node in wanted:
            for index, arrived in enumerate(cotangents):
                if arrived is not None:
                    captured[node, index] = arrived
        if own:
            own.difference_update(map(id, cotangents))
        if not node.edges or (leads is not None and node not in leads):
            continue
        active = (
            None if leads is None else [e is not None and not _idle(e, leads, wanted) for e in node.edges]
        )
        pulled = node.pull(cotangents, active)
        del cotangents
        if not retain_graph:
            node.release()
        for position, (source, contribution) in enumerate(zip(node.edges, pulled)):
            if source is None or contribution is None or (active is not None and not active[position]):
                continue
            meta = source[0].metas[source[1]]
            data = contribution.data
            if data.shape != meta[0] or data.dtype != meta[1]:
                contribution = fit(contribution, meta, node)
            _add(mode, pending, source, contribution, own)
    return [] if targets is None else [captured.get(edge) for edge in targets]


def _leads_to(wanted: set[Node], order: list[Node]) -> set[Node]:
    """The nodes from which some other wanted node can be reached: those whose VJP has to run."""
    leads: set[Node] = set()
    for node in order:
        for edge in node.edges:
            if edge is not None and (edge[0] in wanted or edge[0] in leads):
                leads.add(node)
                break
    return leads


def _idle(edge: Edge, leads: set[Node], wanted: set[Node] | None) -> bool:
    return edge[0] not in leads and (wanted is None or edge[0] not in wanted)


def _add(
    mode: Mode,
    pending: dict[Node, list[Tensor | None]],
    edge: Edge,
    cotangent: Tensor,
    own: set[int] | None,
) -> None:
    node, index = edge
    slots = pending.get(node)
    if slots is None:
        slots = pending[node] = [None] * len(node.metas)
    before = slots[index]
    if before is None:
        slots[index] = cotangent
    elif own is not None and id(before) in own:
        np.add(before.data, cotangent.data, out=before.data)
        if mode.counter is not None:
            mode.counter["add"] += 1
    else:
        total: Tensor = PRIMITIVES["add"](before, cotangent)
        slots[index] = total
        if own is not None:
            own.add(id(total))


def call_hooks(hooks: list[HookHandle], cotangent: Tensor | None, node: Node) -> Tensor | None:
    """Pass a cotangent through the hooks; each may replace it by another of the same shape."""
    if cotangent is None:
        return None
    for handle in tuple(hooks):
        replaced = handle.hook(cotangent)
        if replaced is None:
            continue
        if not isinstance(replaced, type(cotangent)) or replaced.shape != cotangent.shape:
            what = getattr(replaced, "shape", type(replaced).__name__)
            raise EngineError(
                f"hook on the gradient of {node.label or node.name} failed: it returned {what} in place of "
                f"a Tensor of shape {cotangent.shape}. A hook may only replace the gradient by one of the "
                f"same shape. Return None to leave it unchanged."
            )
        cotangent = replaced
    return cotangent
