"""torch's answer to what one autograd node returns beyond its first derivative: its backward, differentiated.

One node is asked alone. Its own backward runs with a random cotangent that requires grad; what it returned is
differentiated with respect to that cotangent and to the edges of its inputs: a saved input is unpacked with the input's
history, a saved output with the node itself. Where one input was made of another, the way between them is cut, so that
each derivative is the partial one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..capture.outputs import unusual_seed
from ..capture.values import to_array
from ..evidence import Array, NodeRecord
from ..replay import edge_groups
from ..replay.higher import Question, unique_edges

__all__ = ["Answer", "Unanswered", "ask"]

# What torch puts behind a gradient that must not be differentiated. It leads nowhere, so only a backward to all leaves would
# meet it and raise.
_REFUSALS = ("DelayedError", "Error")
_ONCE = "it is marked once_differentiable: torch refuses, rightly, to differentiate it twice"
_NO_FURTHER = (
    "torch has no derivative of so high an order for it and refuses, rightly, to differentiate it again"
)


class Unanswered(Exception):
    """torch gives no derivative of this backward; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What torch returned, and what it was asked.

    Attributes:
        question: with the cotangents and directions that were drawn.
        first: the gradient of each group of edges; None where there was none.
        last: the derivatives of the highest order, in the order of ``HigherGradients.last``; None where torch says
            that there is none, which means zero.
        inner: class names of the custom Functions that the backward itself called, and whose backward was asked.
        cut: nothing of what the backward returned requires grad: all that follows is zero.
    """

    question: Question
    first: tuple[Array | None, ...]
    last: tuple[Array | None, ...]
    inner: tuple[str, ...] = ()
    cut: bool = False


class _Enough(Exception):
    """The node has run; nothing behind it needs to."""


def ask(node: NodeRecord, nodes: Mapping[int, Any], order: int, seed: int) -> Answer:
    """Differentiate one node's backward.

    Args:
        node: whose outputs are known.
        nodes: torch's nodes by key.
        order: 2 or 3.
        seed: of cotangents and directions.

    Raises:
        Unanswered: torch (or the user's backward) raised, or there is nothing to ask with.
    """
    generator = torch.Generator().manual_seed(unusual_seed(seed + 7 * node.key + order))

    def draw(like: Tensor) -> Tensor:
        wide = torch.complex128 if like.dtype.is_complex else torch.float64
        drawn = torch.randn(like.shape, generator=generator, dtype=wide)
        return drawn.to(dtype=like.dtype, device=like.device)

    used = {slot for slot, c in enumerate(node.cotangents) if c is not None and np.any(c.array())}
    cotangents: list[Tensor | None] = []
    for slot in range(max(len(node.cotangents), len(node.outputs))):
        ref = node.outputs[slot] if slot < len(node.outputs) else None
        # An output that nobody uses may be returned for whatever purpose: nothing is asked about its gradient.
        if ref is None or ref.edge is None or (used and slot not in used):
            cotangents.append(None)
            continue
        like = torch.empty(ref.shape, dtype=getattr(torch, ref.dtype), device=ref.device)
        cotangents.append(draw(like).requires_grad_())
    if all(c is None for c in cotangents):
        raise Unanswered("its outputs are not known well enough to make a cotangent")
    torch_node = nodes[node.key]
    try:
        with torch.enable_grad():
            return _ask(node, torch_node, nodes, cotangents, order, draw)
    except Unanswered:
        raise
    except Exception as error:  # the backward is the user's, or torch's own that has no derivative
        raise Unanswered(_why(error)) from error


def _ask(
    node: NodeRecord,
    torch_node: Any,
    nodes: Mapping[int, Any],
    cotangents: Sequence[Tensor | None],
    order: int,
    draw: Any,
) -> Answer:
    returned = _fitted(node, _backward(node, torch_node, cotangents))
    groups = edge_groups(node)
    first: list[Tensor | None] = []
    for group in groups:
        parts = [part for part in (returned[p] for p in group) if part is not None]
        first.append(sum(parts[1:], parts[0]) if parts else None)
    places = unique_edges(node)
    edges = [GradientEdge(nodes[key], slot) for key, slot in places]
    variables: list[list[Any]] = [_places(edge) for edge in edges]
    variables += [[] if c is None else [c] for c in cotangents]
    heads = first
    drawn: list[list[Tensor | None]] = []
    inner: dict[str, None] = {}
    cut = not any(g is not None and g.requires_grad for g in first)
    with _parted([edge.node for edge in edges]):
        for level in range(2, order + 1):
            found = _functions_between(
                [h for h in heads if h is not None], torch_node, [e.node for e in edges]
            )
            inner.update(dict.fromkeys(found))
            directions = [None if h is None else draw(h) for h in heads]
            if level < order:
                directions = [None if v is None else v.requires_grad_() for v in directions]
            drawn.append(directions)
            heads = _differentiated(heads, directions, variables, create_graph=level < order)
            variables.extend([] if v is None else [v] for v in directions)
    question = Question([_array(c) for c in cotangents], [[_array(v) for v in level] for level in drawn])
    return Answer(
        question, tuple(_array(g) for g in first), tuple(_array(h) for h in heads), tuple(inner), cut
    )


def _array(tensor: Tensor | None) -> Array | None:
    if tensor is None:
        return None
    if tensor.layout is not torch.strided:
        raise Unanswered("it returns a sparse gradient")
    return to_array(tensor.detach())


def _backward(node: NodeRecord, torch_node: Any, cotangents: Sequence[Tensor | None]) -> list[Tensor | None]:
    """What the node's own backward returns, with its history."""
    if node.role != "function":
        returned = torch_node(*cotangents)
        return list(returned) if isinstance(returned, tuple) else [returned]
    caught: list[Tensor | None] = []

    def replace(_: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        # Whatever a hook of the user's made of them.
        return tuple(cotangents)

    def catch(gradients: Sequence[Tensor | None], _: Sequence[Tensor | None]) -> None:
        caught.extend(gradients)
        raise _Enough

    given = [(slot, c) for slot, c in enumerate(cotangents) if c is not None]
    wanted = [GradientEdge(fn, slot) for fn, slot in torch_node.next_functions if fn is not None]
    handles = [torch_node.register_hook(catch)]
    if len(given) == len(cotangents):
        handles.append(torch_node.register_prehook(replace))
    try:
        torch.autograd.grad(
            tuple(GradientEdge(torch_node, slot) for slot, _ in given),
            tuple(dict.fromkeys(wanted)),
            tuple(c for _, c in given),
            create_graph=True,
            allow_unused=True,
        )
    except _Enough:
        return caught
    finally:
        for handle in handles:
            handle.remove()
    raise Unanswered("torch did not run it when it was asked again")


def _fitted(node: NodeRecord, returned: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients in their inputs' shape and kind, as the autograd engine passes them on."""
    fitted: list[Tensor | None] = []
    for position in range(len(node.edges)):
        gradient = returned[position] if position < len(returned) else None
        ref = node.inputs[position] if position < len(node.inputs) else None
        if gradient is None or node.edges[position] is None:
            fitted.append(None)
            continue
        if ref is not None:
            if gradient.shape != ref.shape:
                gradient = gradient.sum_to_size(ref.shape)
            dtype = getattr(torch, ref.dtype)
            if gradient.is_complex() and not dtype.is_complex:
                gradient = gradient.real
            gradient = gradient.to(dtype)
        fitted.append(gradient)
    return fitted


def _places(edge: GradientEdge) -> list[Any]:
    """Where the gradient of an input arrives.

    A leaf whose ``.data`` had another dtype for a while has a new accumulator since, and a saved leaf is unpacked with that.
    """
    leaf = getattr(edge.node, "variable", None)
    if leaf is None or not leaf.requires_grad or get_gradient_edge(leaf).node is edge.node:
        return [edge]
    return [edge, leaf]


def _differentiated(
    heads: Sequence[Tensor | None],
    directions: Sequence[Tensor | None],
    variables: Sequence[Sequence[Any]],
    *,
    create_graph: bool,
) -> list[Tensor | None]:
    asked = [(h, v) for h, v in zip(heads, directions) if h is not None and v is not None and h.requires_grad]
    gradients: list[Tensor | None] = [None] * len(variables)
    if not asked:
        return gradients
    targets = [(i, place) for i, places in enumerate(variables) for place in places]
    found = torch.autograd.grad(
        [h for h, _ in asked],
        [place for _, place in targets],
        [v for _, v in asked],
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
    )
    for (i, _), gradient in zip(targets, found):
        known = gradients[i]
        gradients[i] = gradient if known is None else known if gradient is None else known + gradient
    return gradients


@contextmanager
def _parted(sources: Sequence[Any]) -> Iterator[None]:
    """No gradient goes on through the nodes that made the inputs: what arrives there is read, and stops."""
    inner = {id(fn): fn for fn in sources if getattr(fn, "variable", None) is None}
    handles = []
    try:
        if len({id(fn) for fn in sources}) > 1:
            handles = [fn.register_prehook(lambda given: (None,) * len(given)) for fn in inner.values()]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _functions_between(gradients: Sequence[Tensor], own: Any, sources: Sequence[Any]) -> list[str]:
    """Class names of the custom Functions between a backward's results and the node's own inputs."""
    stop = {id(own), *(id(fn) for fn in sources)}
    waiting: list[Any] = [g.grad_fn for g in gradients]
    seen: set[int] = set()
    keep: list[Any] = []  # an id speaks of a node only as long as that lives
    names: list[str] = []
    while waiting:
        fn = waiting.pop()
        if fn is None or id(fn) in stop or id(fn) in seen:
            continue
        seen.add(id(fn))
        keep.append(fn)
        if fn.name().rsplit("::", 1)[-1] in _REFUSALS:
            raise Unanswered(_ONCE if hasattr(own, "_forward_cls") else _NO_FURTHER)
        cls = getattr(fn, "_forward_cls", None)
        if cls is not None:
            names.append(cls.__name__)
        waiting.extend(parent for parent, _ in fn.next_functions)
    return list(dict.fromkeys(names))


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0][:200] if lines else ""
    if "once_differentiable" in first:
        return _ONCE
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
