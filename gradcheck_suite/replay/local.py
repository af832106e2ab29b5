"""What one autograd node should return, computed by the engine from the values torch really had.

Each node is looked at alone: the inputs of its forward operation and the cotangent that torch delivered go in, the
gradients of its inputs come out. Nothing accumulates over the graph, so a disagreement is this node's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Perturbation, Tensor, perturbed
from ..engine import grad as engine_grad
from ..evidence import Array, ArraySource, NodeRecord, OpRecord, TensorRef
from .difference import LocalDifference, difference_along
from .memory import Memory, meets_itself, to_engine_array
from .moves import only_moves
from .operations import NoMeaningError, compute, deciding_anew, looks_anew, moves_memory_only
from .refusals import Unexplained, refuse_opaque, refuse_other_looks, tensor_arguments
from .spread import measured_spread

__all__ = [
    "LocalDifference",
    "LocalGradients",
    "Unexplained",
    "edge_groups",
    "execute",
    "forward_outputs",
    "local_gradients",
]


# Their meaning reads the recorded result beside the argument (the slope that was drawn is their quotient, the step their
# difference), so it has the right value and the right slope where they were recorded, and nowhere else.
# Smallest normal number by epsilon: of float16, bfloat16 and float32.
_SMALLEST = {2.0**-10: 2.0**-14, 2.0**-7: 2.0**-126, 2.0**-23: 2.0**-126}
# So many samples of the noise are taken to begin with.
_FIRST = 2
_KNOWN_AT_ONE_POINT = frozenset(
    {
        "aten::rrelu_with_noise",
        "aten::rrelu_with_noise_",
        "aten::rrelu_with_noise_functional",
        "aten::nextafter",
    }
)


@dataclass
class LocalGradients:
    """What a node should return.

    Attributes:
        gradients: per group, the expected gradient (float64/complex128).
        groups: per group, the positions of the edges whose gradients are to be added up before comparing; a single
            position except where one tensor went into a custom Function several times.
        outputs: per slot, the engine's value of the forward result, or None.
        noise: measures the elementwise noise of the gradient of one group for a relative eps, from ``count`` samples
            (third argument; two by default).
        output_noise: the same for the forward value of one slot.
        difference: a finite difference of the forward along (group, index of an element, unit), where the unit is
            1 or, for complex inputs, 1j.
        how: ``"meaning"``, ``"decomposition"`` or ``"numerical"``.
        project: what is to be compared with ``gradients`` of a group when that is not the gradient itself but its
            products with some directions; None when it is.
        beside: the gradient of a group with that input replaced by another value, exactly or (third argument) in
            Monte-Carlo arithmetic of a relative eps; None where it cannot be moved.
        around: the gradients of all groups with the inputs of some replaced, likewise.
    """

    gradients: list[Array]
    groups: list[tuple[int, ...]]
    outputs: list[Array | None]
    noise: Callable[..., Array]
    output_noise: Callable[..., Array]
    difference: Callable[[int, tuple[int, ...], complex], LocalDifference | None]
    how: str = "meaning"
    project: Callable[[int, Array], Array] | None = None
    beside: Callable[..., Array] | None = None
    around: Callable[..., list[Array]] | None = None


def local_gradients(
    node: NodeRecord, cotangents: Sequence[ArraySource | None], *, seed: int = 0
) -> LocalGradients:
    """The gradients that ``node`` owes for these cotangents.

    Raises:
        Unexplained: with the reason.
    """
    if node.role == "unknown" or (not node.ops and node.role != "view-of-written"):
        raise Unexplained(f"no recorded operation explains {node.name}")
    groups = edge_groups(node)
    refuse_other_looks(node)
    if node.role == "view-of-written" or only_moves(node):
        return _moved(node, groups, cotangents)
    weights = [None if c is None else _as_engine(c.array()) for c in cotangents]
    grads, outputs = _evaluate(node, groups, weights, None, None)
    rng = np.random.default_rng(seed)
    samples: dict[float, list[tuple[list[Array], list[Array | None]]]] = {}

    def sampled(eps: float, count: int) -> list[tuple[list[Array], list[Array | None]]]:
        known = samples.setdefault(eps, [])
        while len(known) < count:
            # The first ones are for the many, the further ones are taken before somebody is accused.
            smallest = _SMALLEST.get(eps, 0.0) if len(known) >= _FIRST else 0.0
            known.append(_evaluate(node, groups, weights, eps, rng, smallest=smallest))
        return known

    def noise(group: int, eps: float, count: int = 2) -> Array:
        return measured_spread([g[group] for g, _ in sampled(eps, count)], grads[group])

    def output_noise(slot: int, eps: float, count: int = 2) -> Array:
        exact = outputs[slot]
        assert exact is not None
        return measured_spread([np.asarray(o[slot]) for _, o in sampled(eps, count)], exact)

    def difference(group: int, index: tuple[int, ...], unit: complex) -> LocalDifference | None:
        return _difference(node, groups, weights, group, index, unit)

    def around(values: Mapping[int, Array], eps: float | None = None) -> list[Array]:
        chance = None if eps is None else np.random.default_rng(seed)
        with _deciding(node):
            return _evaluate(node, groups, weights, eps, chance, values)[0]

    def beside(group: int, value: Array, eps: float | None = None) -> Array:
        return around({group: value}, eps)[group]

    return LocalGradients(
        grads, groups, outputs, noise, output_noise, difference, beside=beside, around=around
    )


def _deciding(node: NodeRecord) -> AbstractContextManager[None]:
    """Elsewhere than where it was recorded, a custom Function's forward compares and selects again."""
    return deciding_anew() if node.role == "function" else nullcontext()


def _difference(
    node: NodeRecord,
    groups: list[tuple[int, ...]],
    weights: Sequence[Array | None],
    group: int,
    index: tuple[int, ...],
    unit: complex,
) -> LocalDifference | None:
    """A finite difference of <cotangent, forward> along one element of one input; None where there is none."""
    ref = node.inputs[groups[group][0]]
    if ref is None or any(op.name in _KNOWN_AT_ONE_POINT for op in node.ops):
        return None
    base = to_engine_array(ref)
    if unit != 1 and base.dtype.kind != "c":
        return None
    terms = 0.0
    for weight, output in zip(weights, node.outputs):
        if weight is not None and output is not None and weight.shape == output.shape:
            terms += float(np.vdot(np.abs(weight), np.abs(to_engine_array(output))))

    def projected(value: Array) -> float:
        return _projected(node, groups, weights, group, value)

    return difference_along(projected, base, index, unit, terms=terms if np.isfinite(terms) else 0.0)


def _projected(
    node: NodeRecord, groups: list[tuple[int, ...]], weights: Sequence[Array | None], group: int, value: Array
) -> float:
    """<cotangent, forward> with one input replaced."""
    leaves: dict[int, Tensor] = {}
    for number, positions in enumerate(groups):
        ref = node.inputs[positions[0]]
        if ref is None:
            continue
        leaf = Tensor(value if number == group else to_engine_array(ref))
        for position in positions:
            leaves[position] = leaf
    total = 0.0
    with np.errstate(all="ignore"), _deciding(node):
        for slot, output in enumerate(_forward(node, leaves, None, None)):
            weight = weights[slot] if slot < len(weights) else None
            if weight is not None and isinstance(output, Tensor):
                total += float(np.real(np.vdot(weight, output.data)))
    return total


def _moved(
    node: NodeRecord, groups: list[tuple[int, ...]], cotangents: Sequence[ArraySource | None]
) -> LocalGradients:
    """Gradients of an operation that only moves elements, in the cotangent's own dtype and without any value."""
    ref = node.inputs[groups[0][0]]
    if ref is None:
        raise Unexplained(f"the argument of {node.name} could not be matched with a recorded value")
    weights = [None if c is None else c.array() for c in cotangents]
    kind = next((w.dtype for w in weights if w is not None), np.dtype(np.float64))
    leaf = Tensor(np.broadcast_to(np.zeros((), kind), ref.shape), requires_grad=True)
    slots = range(max(len(cotangents), 1))
    if node.role == "view-of-written":
        view = node.outputs[0]
        if view is None:
            raise Unexplained(f"what {node.name} produced was not recorded")
        memory = Memory()
        memory.bind(ref, leaf)
        outputs = [memory.read(view)]
    else:
        outputs = _moved_by_operation(node, ref, leaf, slots)
    gradients = _pull_back(node, groups, [leaf], outputs, weights, None, None)

    def exact(_: int, __: float, ___: int = 2) -> Array:
        return np.zeros(())

    return LocalGradients(gradients, groups, [], exact, exact, lambda *_: None)


def forward_outputs(
    node: NodeRecord, leaves: dict[int, Tensor], noise: Perturbation | None = None
) -> list[Any]:
    """What a node's recorded operations make of these tensors in the place of its inputs, one value per slot.

    Args:
        node: its role is not ``"unknown"``.
        leaves: by position of the gradient edge.
        noise: applied to every other floating argument, in Monte-Carlo arithmetic.

    Raises:
        Unexplained: with the reason.
    """
    if node.role == "view-of-written":
        ref, view = node.inputs[0], node.outputs[0]
        if ref is None or view is None:
            raise Unexplained(f"what {node.name} looked at was not recorded")
        memory = Memory()
        memory.bind(ref, leaves[0])
        return [memory.read(view)]
    if noise is None:
        return _forward(node, leaves, None, None)
    return _forward(node, leaves, noise.eps, noise.rng)


def _moved_by_operation(node: NodeRecord, ref: TensorRef, leaf: Tensor, slots: Iterable[int]) -> list[Any]:
    def read(other: TensorRef) -> Any:
        return leaf if other is ref else to_engine_array(other)

    try:
        results = compute(node.ops[0], read)
    except NoMeaningError as error:
        raise Unexplained(str(error)) from error
    return [_of_slot(results, node.key, s, node.outputs[s] if s < len(node.outputs) else None) for s in slots]


def edge_groups(node: NodeRecord) -> list[tuple[int, ...]]:
    """Positions of the edges whose gradients are compared together: each by itself, except that one tensor may go into
    a custom Function several times."""
    if node.role != "function":
        return [(i,) for i, edge in enumerate(node.edges) if edge is not None]
    by_edge: dict[tuple[int, int], list[int]] = {}
    for i, edge in enumerate(node.edges):
        if edge is not None:
            by_edge.setdefault((edge.node, edge.slot), []).append(i)
    return [tuple(positions) for positions in by_edge.values()]


def _as_engine(array: Array) -> Array:
    if array.dtype.kind == "c":
        return array.astype(np.complex128, copy=False)
    return array.astype(np.float64, copy=False)


def _jitter(array: Array, eps: float | None, rng: np.random.Generator | None) -> Array:
    if eps is None or rng is None:
        return array
    return Perturbation(eps, rng)(array)


def _evaluate(
    node: NodeRecord,
    groups: list[tuple[int, ...]],
    weights: Sequence[Array | None],
    eps: float | None,
    rng: np.random.Generator | None,
    moved: Mapping[int, Array] | None = None,
    smallest: float = 0.0,
) -> tuple[list[Array], list[Array | None]]:
    """Run the node's operations and their VJP in the engine, optionally in Monte-Carlo arithmetic.

    ``moved``: by group, the value that its input has instead of the recorded one. ``smallest``: see
    :func:`~gradcheck_suite.engine.perturbed`.
    """
    noisy: AbstractContextManager[None] = nullcontext()
    if eps is not None and rng is not None:
        noisy = perturbed(eps, rng, smallest)
    with np.errstate(all="ignore"), noisy:
        leaves: list[Tensor | None] = []
        of_position: dict[int, Tensor] = {}
        for number, group in enumerate(groups):
            ref = node.inputs[group[0]] if group[0] < len(node.inputs) else None
            if ref is None:
                leaves.append(None)
                continue
            value = moved[number] if moved is not None and number in moved else to_engine_array(ref)
            leaf = Tensor(_jitter(value, eps, rng), requires_grad=True)
            leaves.append(leaf)
            for position in group:
                of_position[position] = leaf
        outputs = _forward(node, of_position, eps, rng)
        gradients = _pull_back(node, groups, leaves, outputs, weights, eps, rng)
    values = [o.data if isinstance(o, Tensor) else None for o in outputs]
    return gradients, values


def _pull_back(
    node: NodeRecord,
    groups: list[tuple[int, ...]],
    leaves: list[Tensor | None],
    outputs: list[Any],
    weights: Sequence[Array | None],
    eps: float | None,
    rng: np.random.Generator | None,
) -> list[Array]:
    heads, cotangents = [], []
    for slot, output in enumerate(outputs):
        weight = weights[slot] if slot < len(weights) else None
        if weight is None or not isinstance(output, Tensor) or not output.requires_grad:
            continue
        if weight.shape != output.shape:
            raise Unexplained(
                f"the cotangent of {node.name} has shape {list(weight.shape)} and its output {list(output.shape)}"
            )
        heads.append(output)
        weight = _jitter(weight, eps, rng)
        if output.dtype.kind == "c":
            weight = weight.astype(np.complex128, copy=False)
        elif weight.dtype.kind == "c":
            weight = np.ascontiguousarray(weight.real)
        cotangents.append(Tensor(weight))
    wanted = [leaf for leaf in leaves if leaf is not None]
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if heads and wanted:
        found = engine_grad(heads, wanted, cotangents, allow_unused=True)
    by_leaf = {id(leaf): g for leaf, g in zip(wanted, found)}
    gradients = []
    for group, leaf in zip(groups, leaves):
        if leaf is None:
            gradients.append(_zeros_for(node, group))
            continue
        gradient = by_leaf[id(leaf)]
        gradients.append(np.zeros(leaf.shape, leaf.dtype) if gradient is None else gradient.data)
    return gradients


def _zeros_for(node: NodeRecord, group: tuple[int, ...]) -> Array:
    """The gradient of an input that no recorded operation used: zero, in the shape returned."""
    # A product with a zero that torch knows to be one (under forward mode) makes zeros and looks at no factor.
    if node.role != "function" and any(op.name != "aten::_efficientzerotensor" for op in node.ops):
        raise Unexplained(f"argument {group[0]} of {node.name} could not be matched with a recorded value")
    for position in group:
        source = node.gradients[position] if position < len(node.gradients) else None
        if source is not None:
            return np.zeros(source.array().shape)
    return np.zeros(())


def _forward(
    node: NodeRecord, leaves: dict[int, Tensor], eps: float | None, rng: np.random.Generator | None
) -> list[Any]:
    if node.role == "op" and len(node.ops) == 1 and not moves_memory_only(node.ops[0]):
        return _single(node, node.ops[0], leaves, eps, rng)
    if node.role == "write-through-view":
        return _write_through(node, leaves, eps, rng)
    memory = Memory()
    bound: set[tuple[int, Any]] = set()
    for position, leaf in sorted(leaves.items()):
        ref = node.inputs[position]
        if ref is not None and (ref.storage, ref.geometry) not in bound:
            bound.add((ref.storage, ref.geometry))
            memory.bind(ref, leaf)
    if node.role == "function":
        refuse_opaque(node)
    produced: dict[tuple[int, int], Any] = {}
    for op in node.ops:
        execute(op, memory, produced)
    outputs: list[Any] = []
    for slot in range(max(len(node.cotangents), len(node.outputs))):
        ref = node.outputs[slot] if slot < len(node.outputs) else None
        if ref is None:
            outputs.append(None)
            continue
        value = produced.get((node.key, slot))
        if value is None:
            before = len(memory.constants)
            value = memory.read(ref)
            if len(memory.constants) > before and node.role == "function":
                raise Unexplained(
                    f"output {slot} of {node.name} was not made by recorded operations (NumPy, C++ or a Python number "
                    "in between), so its forward cannot be differentiated"
                )
        outputs.append(value)
    return outputs


def _single(
    node: NodeRecord,
    op: OpRecord,
    leaves: dict[int, Tensor],
    eps: float | None,
    rng: np.random.Generator | None,
) -> list[Any]:
    """The common case: one operation, its arguments straight from the record."""
    by_ref = {id(node.inputs[position]): leaf for position, leaf in leaves.items()}

    def read(ref: TensorRef) -> Any:
        leaf = by_ref.get(id(ref))
        if leaf is not None:
            return leaf
        array = to_engine_array(ref)
        return Tensor(_jitter(array, eps, rng)) if array.dtype.kind in "fc" else array

    try:
        results = compute(op, read)
    except NoMeaningError as error:
        raise Unexplained(str(error)) from error
    outputs: list[Any] = []
    for slot in range(max(len(node.cotangents), 1)):
        wanted = node.outputs[slot] if slot < len(node.outputs) else None
        outputs.append(_of_slot(results, node.key, slot, wanted))
    return outputs


def _write_through(
    node: NodeRecord, leaves: dict[int, Tensor], eps: float | None, rng: np.random.Generator | None
) -> list[Any]:
    """The base after a write through one of its views.

    Only the written argument is a window on the base; another argument may look at the same memory
    (``view.add_(view)``) and is an input of its own.
    """
    base, after = node.base, node.outputs[0] if node.outputs else None
    if base is None or after is None:
        raise Unexplained(f"the base that {node.name} writes to was not recorded")
    memory = Memory()
    memory.bind(base, leaves[0] if 0 in leaves else Tensor(to_engine_array(base)))
    by_ref = {id(node.inputs[position]): leaf for position, leaf in leaves.items() if position}
    op = node.ops[0]
    targets = {id(before) for before, _ in op.written}
    if any(leaves) and any(meets_itself(before) for before, _ in op.written):
        raise Unexplained(
            f"{op.name} writes through a window whose elements share memory, and torch leaves open which of several values "
            "stays there"
        )

    def read(ref: TensorRef) -> Any:
        if id(ref) in targets:
            return memory.read(ref)
        leaf = by_ref.get(id(ref))
        if leaf is not None:
            return leaf
        array = to_engine_array(ref)
        return Tensor(_jitter(array, eps, rng)) if array.dtype.kind in "fc" else array

    try:
        results = compute(op, read)
    except NoMeaningError as error:
        raise Unexplained(str(error)) from error
    for ref, value in results:
        if any(ref is written for _, written in op.written):
            memory.write(ref, value)
    return [memory.read(after)]


def _of_slot(results: list[tuple[TensorRef, Any]], key: int, slot: int, wanted: TensorRef | None) -> Any:
    for ref, value in results:
        if ref is wanted or ref.edge == (key, slot):
            return value
    return None


def execute(op: OpRecord, memory: Memory, produced: dict[tuple[int, int], Any]) -> None:
    if moves_memory_only(op):
        return
    try:
        results = compute(op, memory.read)
    except NoMeaningError as error:
        raise Unexplained(str(error)) from error
    written = {id(after) for _, after in op.written}
    inputs = {ref.storage for ref in tensor_arguments(op)}
    for ref, value in results:
        if id(ref) in written and not looks_anew(op):
            memory.write(ref, value)
        elif ref.storage in inputs:
            memory.bind(ref, value)
        else:
            memory.forget(ref.storage)
            memory.bind(ref, value)
        if ref.edge is not None:
            produced[ref.edge] = value
