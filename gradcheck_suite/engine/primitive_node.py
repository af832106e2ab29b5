"""The graph node of one executed primitive: what it saves, how it checks that, and how it pulls back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import EngineError, GraphFreedError, InplaceError
from .tape import Edge, Meta, Node, _order
from .tensor import Tensor, describe, wrap
from .usage import META, NOTHING, VALUE
from .usage import Meta as MetaView

if TYPE_CHECKING:
    from .primitive import Primitive


class PrimitiveNode(Node):
    """One execution of a primitive: its arguments as far as the VJPs need them."""

    __slots__ = ("freed", "out_saved", "out_tangents", "primitive", "saved", "static", "versions")

    def __init__(
        self,
        primitive: Primitive,
        edges: tuple[Edge | None, ...],
        metas: tuple[Meta, ...],
        needs: int,
        static: dict[str, Any],
        args: tuple[Any, ...],
        outs: tuple[Any, ...],
    ) -> None:
        # Written out rather than through Node.__init__: one of these is made per recorded operation.
        self.edges = edges
        self.metas = metas
        self.order = next(_order)
        self.hooks = self.retained = self.label = self.value = None
        self.primitive = primitive
        self.static = static
        self.freed = False
        self.out_tangents: tuple[dict[int, Tensor] | None, ...] | None = None
        self.out_saved: tuple[tuple[Any, Any, int], ...] | None = None
        self.versions: tuple[int, ...] | None = None
        plan = primitive._plans.get(needs) if primitive.sequence is None else None
        if plan is None:
            plan = primitive.plan(needs, args)
        self.saved: tuple[Any, ...] = ()
        if plan.args is not None:
            self._save_arguments(plan.args, plan.values, args, outs)
        if plan.out == VALUE:
            # Not the tensor itself: it refers to this node, and the cycle would outlive the graph.
            self.out_saved = tuple(
                [(o.data, o._version, o._version[0]) if o.__class__ is Tensor else (o, None, 0) for o in outs]
            )
        elif plan.out == META:
            self.out_saved = tuple([(MetaView(o), None, 0) for o in outs])

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.primitive.name

    def _save_arguments(
        self, uses: tuple[int, ...], values: bool, args: tuple[Any, ...], outs: tuple[Any, ...]
    ) -> None:
        """Keep what the VJPs of the wanted arguments read, with the versions it has now."""
        saved: list[Any] = []
        for use, a in zip(uses, args):
            if use == NOTHING:
                saved.append(None)
            elif use == VALUE:
                saved.append(a if a.__class__ is Tensor else self._constant(a, outs))
            else:
                saved.append(_meta_view(a))
        self.saved = tuple(saved)
        if values:
            self.versions = tuple([a._version[0] if a.__class__ is Tensor else -1 for a in self._flat(saved)])

    def _flat(self, saved: Sequence[Any]) -> list[Any]:
        at = self.primitive.sequence
        if at is None or saved[at] is None:
            return list(saved)
        return [*saved[:at], *saved[at], *saved[at + 1 :]]

    def _constant(self, value: Any, outs: tuple[Any, ...]) -> Any:
        """An argument that is no tensor, as one; Python numbers take the precision of the result."""
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(v if v.__class__ is Tensor else self._constant(v, outs) for v in value)
        if isinstance(value, (bool, int, float, complex)) and not isinstance(value, np.generic):
            dtype = outs[0].dtype
            if dtype.kind == "c" and not isinstance(value, complex):
                dtype = np.dtype(f"f{dtype.itemsize // 2}")
            if dtype.kind in "fc" and not isinstance(value, bool):
                return wrap(np.asarray(value, dtype))
        return wrap(np.asarray(value))

    def pull(
        self, cotangents: list[Tensor | None], active: Sequence[bool] | None = None
    ) -> Sequence[Tensor | None]:
        if self.freed:
            raise GraphFreedError(
                f"backward through {self.label or self.name} failed: the values that {self.name} saved were "
                f"freed by an earlier backward. A graph is good for one backward unless it is kept. Pass "
                f"retain_graph=True to the earlier backward, or compute the forward again."
            )
        primitive, out = self.primitive, None
        edges = self.edges
        if active is not None and not all(active):
            edges = tuple([edge if wanted else None for edge, wanted in zip(edges, active)])
        args: Sequence[Any] = self.saved or (None,) * primitive.arity
        if self.versions is not None:
            for a, version in zip(args if primitive.sequence is None else self._flat(args), self.versions):
                if version >= 0 and a._version[0] != version:
                    self._overwritten(a, describe(a), a._version, version)
        if self.out_saved is not None:
            out = self._outputs()
        multiple = len(self.metas) > 1 or (out is not None and primitive.nondifferentiable_outputs)
        g: Any = tuple(cotangents) if multiple else cotangents[0]
        if out is not None and not multiple:
            out = out[0]
        if primitive.sequence is None:
            pulled: list[Tensor | None] = []
            for position, edge in enumerate(edges):
                if edge is None:
                    pulled.append(None)
                    continue
                answer = primitive.pull_argument(position, g, out, args, self.static)
                pulled.append(self._zero(edge) if answer is None else self._tensor(answer))
            return pulled
        return self._pull_sequence(g, out, args, edges)

    def _pull_sequence(
        self, g: Any, out: Any, args: Sequence[Any], sources: tuple[Edge | None, ...]
    ) -> list[Tensor | None]:
        primitive = self.primitive
        at = primitive.sequence
        members = len(sources) - primitive.arity + 1
        pulled: list[Tensor | None] = []
        for position in range(primitive.arity):
            width = members if position == at else 1
            edges = sources[len(pulled) : len(pulled) + width]
            if not any(edges):
                pulled.extend([None] * width)
                continue
            answer = primitive.pull_argument(position, g, out, args, self.static)
            answers = list(answer) if position == at and answer is not None else [answer] * width
            if len(answers) != width:
                raise EngineError(
                    f"backward through {self.name} failed: its VJP returned {len(answers)} cotangents for a "
                    f"list of {width}. There is one per member. Correct the VJP."
                )
            for edge, one in zip(edges, answers):
                pulled.append(
                    None if edge is None else self._zero(edge) if one is None else self._tensor(one)
                )
        return pulled

    @staticmethod
    def _zero(edge: Edge) -> Tensor:
        shape, dtype = edge[0].metas[edge[1]]
        return wrap(np.zeros(shape, dtype))

    @staticmethod
    def _tensor(answer: Any) -> Tensor:
        return answer if answer.__class__ is Tensor else wrap(np.asarray(answer))

    def _outputs(self) -> tuple[Any, ...]:
        """The outputs as tensors with their place in the graph, checked for writes."""
        assert self.out_saved is not None
        outs: list[Any] = []
        for index, (data, cell, version) in enumerate(self.out_saved):
            if cell is None:
                outs.append(data)
                continue
            if cell[0] != version:
                what = f"its result of shape {data.shape}, {data.dtype}"
                self._overwritten(None, what, cell, version)
            out = wrap(data)
            out._version = cell
            out._requires_grad = True
            out._edge = (self, index)
            if self.out_tangents is not None:
                out._tangents = self.out_tangents[index]
            outs.append(out)
        return tuple(outs)

    def _overwritten(self, saved: Tensor | None, what: str, cell: Any, version: int) -> None:
        label = f" (labelled {self.label!r})" if self.label is not None else ""
        raise InplaceError(
            f"backward through {self.name}{label} failed: {what}, saved by {self.name} at version {version}, is "
            f"at version {cell[0]}. {cell[2]} overwrote it in place after it was saved, and the derivative needs "
            f"the old value. Use the out-of-place form of {cell[2]}, or clone() the tensor before it."
        )

    def release(self) -> None:
        if self.versions is None and self.out_saved is None:
            return  # only shapes were saved: there is nothing to free, and another backward may run
        self.freed = True
        self.saved = ()
        self.out_saved = None
        self.out_tangents = None


def _meta_view(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_meta_view(v) for v in value)
    return MetaView(value.data if value.__class__ is Tensor else np.asarray(value))
