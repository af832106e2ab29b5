"""`@primitive`: one entry holds a value, its VJP, its JVP and the sampler that states its domain.

    @primitive(samples=lambda draw: [(draw.real(3, 4), draw.real(4)), (draw.complex(2), draw.real())])
    def multiply(x, y):
        return np.multiply(x, y)

    multiply.vjp(x=lambda g, out, x, y: g * conj(y), y=lambda g, out, x, y: g * conj(x))
    multiply.jvp(x="linear", y="linear")

The value function works on ndarrays. Its positional parameters may be tensors; its keyword-only
parameters are static, never differentiated, and reach every rule that names them keyword-only.

Rules are written in engine operations, so that every order of derivative follows:

- VJP of an argument: `(g, out, *args, *, static...) -> cotangent`. The tape undoes broadcasting, casts,
  and takes the real part for a real argument. `"zero"` declares a derivative that is zero wherever it
  exists; no rule at all makes the gradient a NotDifferentiableError, never a silent zero.
- JVP of an argument: `(dx, out, *args, *, static...) -> tangent of out` (the tape broadcasts it up).
  `"linear"`: the operation itself with dx in that argument's place. Without a rule it is derived from
  the VJP, which is linear in g: transposing it once more gives the JVP.

A primitive that returns a tuple gets `g` as the tuple of cotangents (None where none arrived) and `out`
as the tuple of outputs. With `sequence="arrays"` that parameter is a list of tensors; its VJP returns a
list, and its JVP gets a list with None for constants.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import NotDifferentiableError
from .modes import THREAD, Mode
from .primitive_node import PrimitiveNode
from .registry import DERIVED, PRIMITIVES, place, refuse_duplicate
from .sampling import Draw, Sample, normalise_sample
from .tape import Edge
from .tensor import Tensor, describe, wrap
from .usage import META, VALUE, keywords, usage

Array = NDArray[Any]
Rule = Callable[..., Any]
Sampler = Callable[[Draw], Sequence[Any]]


class _Rule(NamedTuple):
    """A derivative rule and what it asks for."""

    function: Rule | str
    names: frozenset[str] | None  # static parameters it takes; None: all
    uses: tuple[int, ...]  # of (out, *args)

    def call(self, first: Any, out: Any, args: Sequence[Any], static: dict[str, Any]) -> Any:
        if self.names is not None and len(self.names) != len(static):
            static = {name: static[name] for name in self.names}
        return self.function(first, out, *args, **static)  # type: ignore[operator]


class _Plan(NamedTuple):
    """What a node saves when a given set of arguments needs gradients."""

    out: int
    args: tuple[int, ...] | None  # None: nothing of any argument
    values: bool  # whether the value of some argument


class Primitive:
    """A differentiable operation: callable on tensors, arrays and numbers; always returns tensors."""

    def __init__(
        self,
        value: Callable[..., Any],
        samples: Sampler,
        *,
        exact: bool = False,
        analytic: bool = False,
        sequence: str | None = None,
        meta_only: tuple[str, ...] = (),
        nondifferentiable_outputs: tuple[int, ...] = (),
        name: str | None = None,
    ) -> None:
        self.value = value
        self.samples = samples
        self.exact = exact
        self.analytic = analytic
        self.nondifferentiable_outputs = frozenset(nondifferentiable_outputs)
        self.name = name or value.__name__
        self.__name__ = self.name
        self.__doc__ = value.__doc__
        self.__module__ = value.__module__
        parameters = inspect.signature(value).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        statics = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        if len(positional) + len(statics) != len(parameters) or not positional:
            raise ValueError(
                f"registering primitive {self.name!r} ({place(value)}) failed: its parameters are "
                f"{inspect.signature(value)}. Arguments are positional, static ones keyword-only; *args and "
                f"**kwargs hide which is which. Name them (a list of tensors: sequence='...')."
            )
        self.arguments = tuple(p.name for p in positional)
        self.arity = len(positional)
        self.optional = {p.name: p.default for p in positional if p.default is not p.empty}
        self.statics = tuple(p.name for p in statics)
        self.defaults = {p.name: p.default for p in statics if p.default is not p.empty}
        self._complete = len(self.defaults) == len(self.statics)
        if sequence is not None and sequence not in self.arguments:
            raise ValueError(
                f"registering primitive {self.name!r} ({place(value)}) failed: sequence={sequence!r} is none "
                f"of its arguments {self.arguments}. Name the parameter that is a list of tensors."
            )
        self.sequence = None if sequence is None else self.arguments.index(sequence)
        self.meta_only = frozenset(self.arguments.index(argument) for argument in meta_only)
        self._vjps: list[_Rule | None] = [None] * self.arity
        self._jvps: list[_Rule | None] = [None] * self.arity
        self._plans: dict[int, _Plan] = {}

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    # ---- declaration -------------------------------------------------------------------------------

    def vjp(self, **rules: Rule | str) -> Primitive:
        """Declare VJPs by argument name (see the module's text); returns the primitive."""
        self._declare(self._vjps, rules, "vjp", ("zero",))
        return self

    def jvp(self, **rules: Rule | str) -> Primitive:
        """Declare JVPs by argument name (see the module's text); returns the primitive."""
        self._declare(self._jvps, rules, "jvp", ("zero", "linear"))
        return self

    def _declare(
        self, table: list[_Rule | None], rules: dict[str, Rule | str], kind: str, words: tuple[str, ...]
    ) -> None:
        for argument, rule in rules.items():
            problem = None
            if argument not in self.arguments:
                problem = f"its arguments are {self.arguments}"
            elif table[self.arguments.index(argument)] is not None:
                problem = "that argument has one already"
            elif isinstance(rule, str) and rule not in words:
                problem = f"{rule!r} is none of the words {words}"
            elif not isinstance(rule, str) and (keywords(rule) or frozenset()) - set(self.statics):
                problem = f"it asks for keywords that are none of the static arguments {self.statics}"
            if problem is not None:
                raise ValueError(
                    f"declaring the {kind} of {self.name}({argument}) failed: {problem}. Rules belong to one "
                    f"argument, by name. Correct the declaration near {place(self.value)}."
                )
            names = frozenset() if isinstance(rule, str) else keywords(rule)
            uses = (0,) * (self.arity + 1) if isinstance(rule, str) else usage(rule, self.arity + 2)[1:]
            table[self.arguments.index(argument)] = _Rule(rule, names, uses)

    def differentiable_arguments(self) -> tuple[str, ...]:
        """Arguments with a VJP (a declared zero counts)."""
        return tuple(name for name, rule in zip(self.arguments, self._vjps) if rule is not None)

    def draw_samples(self, seed: int = 0) -> list[Sample]:
        """The sampler's arguments as (args, kwargs) pairs."""
        return [normalise_sample(sample) for sample in self.samples(Draw(seed))]

    # ---- execution ---------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs or len(args) != self.arity or not self._complete:
            args, static = self._bind(args, kwargs)
        else:
            static = self.defaults
        mode = THREAD.mode
        position = self.sequence
        if position is None:
            flat = args
            out = self.value(*[a.data if a.__class__ is Tensor else a for a in args], **static)
        else:
            members = tuple(args[position])
            args = (*args[:position], members, *args[position + 1 :])
            flat = (*args[:position], *members, *args[position + 1 :])
            bare = [a.data if a.__class__ is Tensor else a for a in args]
            bare[position] = [np.asarray(a.data if a.__class__ is Tensor else a) for a in members]
            out = self.value(*bare, **static)
        if mode.counter is not None:
            mode.counter[self.name] += 1

        needs = 0
        if mode.grad:
            bit = 1
            for a in flat:
                if a.__class__ is Tensor and a._requires_grad:
                    needs |= bit
                bit += bit
        if out.__class__ is tuple:
            return self._finish_tuple(mode, out, args, flat, static, needs)
        if out.__class__ is not np.ndarray:
            out = np.asarray(out)
        if mode.perturbation is not None and not self.exact:
            out = mode.perturbation(out)
        result = wrap(out)
        if self.exact or out.base is not None:
            self._note_sharing(out, result, flat)
        node = None
        if needs and out.dtype.kind in "fc":
            edges = self._edges(flat, needs)
            node = PrimitiveNode(self, edges, ((out.shape, out.dtype),), needs, static, args, (result,))
            if not out.ndim:
                node.value = out
            result._requires_grad = True
            result._edge = (node, 0)
        if mode.levels:
            self._propagate_tangents(mode, args, flat, static, (result,), node)
        return result

    def _finish_tuple(
        self,
        mode: Mode,
        outs: tuple[Any, ...],
        args: tuple[Any, ...],
        flat: tuple[Any, ...],
        static: dict[str, Any],
        needs: int,
    ) -> tuple[Any, ...]:
        made: list[Any] = []
        for index, out in enumerate(outs):
            array = np.asarray(out)
            if index in self.nondifferentiable_outputs:
                made.append(array)
                continue
            if mode.perturbation is not None and not self.exact:
                array = mode.perturbation(array)
            made.append(wrap(array))
            if self.exact or array.base is not None:
                self._note_sharing(array, made[-1], flat)
        results = tuple(made)
        node = None
        if needs:
            metas = tuple((r.shape, r.dtype) for r in results)
            node = PrimitiveNode(self, self._edges(flat, needs), metas, needs, static, args, results)
            for index, result in enumerate(results):
                if result.__class__ is Tensor and result.data.dtype.kind in "fc":
                    result._requires_grad = True
                    result._edge = (node, index)
        if mode.levels:
            self._propagate_tangents(mode, args, flat, static, results, node)
        return results

    @staticmethod
    def _edges(flat: tuple[Any, ...], needs: int) -> tuple[Edge | None, ...]:
        edges: list[Edge | None] = []
        for a in flat:
            edges.append((a._edge or a._gradient_edge()) if needs & 1 else None)
            needs >>= 1
        return tuple(edges)

    @staticmethod
    def _note_sharing(out: Array, result: Tensor, flat: tuple[Any, ...]) -> None:
        """Mark buffers that two tensors look at: the first in-place write will copy."""
        view = out.base is not None
        for a in flat:
            if a.__class__ is Tensor:
                if a.data is out or (view and np.may_share_memory(a.data, out)):
                    a._version[1] = result._version[1] = True
            elif a is out or (view and a.__class__ is np.ndarray and np.may_share_memory(a, out)):
                result._version[1] = True

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments in order and the static ones complete, from any legal way of passing them."""
        static = dict(self.defaults)
        if len(args) > self.arity:
            extra = dict(zip(self.statics, args[self.arity :]))
            if len(extra) != len(args) - self.arity or extra.keys() & kwargs.keys():
                raise TypeError(f"{self.name}{inspect.signature(self.value)} got {len(args)} arguments")
            static.update(extra)
            args = args[: self.arity]
        named: dict[str, Any] = {}
        for key, given in kwargs.items():
            if key in self.statics:
                static[key] = given
            elif key in self.arguments[len(args) :]:
                named[key] = given
            else:
                raise TypeError(f"{self.name}{inspect.signature(self.value)} got an unexpected {key!r}")
        if len(args) < self.arity:
            filled = list(args)
            for key in self.arguments[len(args) :]:
                if key not in named and key not in self.optional:
                    raise TypeError(f"{self.name}{inspect.signature(self.value)} misses argument {key!r}")
                filled.append(named.get(key, self.optional.get(key)))
            args = tuple(filled)
        for key in self.statics:
            if key not in static:
                raise TypeError(f"{self.name}{inspect.signature(self.value)} misses argument {key!r}")
            if static[key].__class__ is Tensor:
                if static[key]._requires_grad:
                    raise NotDifferentiableError(
                        f"{self.name} failed: its static argument {key!r} is {describe(static[key])} that "
                        f"requires grad. No derivative is taken of static arguments. Pass it detached."
                    )
                static[key] = static[key].data
        return args, static

    # ---- derivatives -------------------------------------------------------------------------------

    def plan(self, needs: int, args: tuple[Any, ...]) -> _Plan:
        """What to save when the flat arguments in the bit set `needs` want gradients."""
        members = 0 if self.sequence is None else len(args[self.sequence])
        wanted = self._wanted(needs, members)
        key = sum([1 << i for i in wanted])
        plan = self._plans.get(key)
        if plan is None:
            rules = [rule for rule in (self._vjps[i] for i in wanted) if rule is not None]
            uses = [max((rule.uses[i] for rule in rules), default=0) for i in range(self.arity + 1)]
            for i in self.meta_only:
                uses[i + 1] = min(uses[i + 1], META)
            plan = _Plan(uses[0], tuple(uses[1:]) if any(uses[1:]) else None, VALUE in uses[1:])
            self._plans[key] = plan
        return plan

    def _wanted(self, needs: int, members: int) -> list[int]:
        """Positions of the arguments of which some (member) wants a gradient."""
        if self.sequence is None:
            return [i for i in range(self.arity) if needs >> i & 1]
        at, wanted, start = self.sequence, [], 0
        for i in range(self.arity):
            width = members if i == at else 1
            if needs >> start & ((1 << width) - 1):
                wanted.append(i)
            start += width
        return wanted

    def pull_argument(
        self, position: int, g: Any, out: Any, args: Sequence[Any], static: dict[str, Any]
    ) -> Any:
        """The VJP's answer for one argument; None where the derivative is declared zero."""
        rule = self._vjps[position]
        if rule is None:
            raise NotDifferentiableError(
                f"differentiating {self.name} failed: no VJP is declared for its argument "
                f"{self.arguments[position]!r}. A zero would be a silent lie. Detach that argument if it is a "
                f"constant, or declare {self.name}.vjp({self.arguments[position]}=...)."
            )
        if rule.function == "zero":
            return None
        return rule.call(g, out, args, static)

    def _propagate_tangents(
        self,
        mode: Mode,
        args: tuple[Any, ...],
        flat: tuple[Any, ...],
        static: dict[str, Any],
        outs: tuple[Any, ...],
        node: PrimitiveNode | None,
    ) -> None:
        from .forward import propagate

        if any(a.__class__ is Tensor and a._tangents for a in flat):
            propagate(self, mode.levels, args, static, outs)
            if node is not None:
                node.out_tangents = tuple(o._tangents if o.__class__ is Tensor else None for o in outs)


def primitive(
    *,
    samples: Sampler,
    exact: bool = False,
    analytic: bool = False,
    sequence: str | None = None,
    meta_only: tuple[str, ...] = (),
    nondifferentiable_outputs: tuple[int, ...] = (),
    name: str | None = None,
    registry: dict[str, Primitive] | None = None,
) -> Callable[[Callable[..., Any]], Primitive]:
    """Register a value function on ndarrays as a primitive.

    - `samples(draw)`: list of argument tuples, or (tuple, static dict), over the whole domain: dtypes,
      broadcasting, 0-d and empty cases where they make sense. They are also the tests.
    - `exact`: moves data without rounding (never perturbed); only such a value may return a view.
    - `analytic`: holomorphic, and the value function accepts complex arrays: tested by complex step.
    - `sequence`: the parameter that is a list of tensors.
    - `meta_only`: arguments of which the rules read only shape and dtype, where the bytecode does not show
      it (a list, a helper function); the node then saves no value of them.
    - `nondifferentiable_outputs`: positions of outputs returned as plain ndarrays.
    - `name`: when the function's own would shadow a builtin.
    - `registry`: where to register; `engine.PRIMITIVES` unless given.

    Raises ValueError for a name that is taken, naming both places.
    """

    def register(value: Callable[..., Any]) -> Primitive:
        made = Primitive(
            value,
            samples,
            exact=exact,
            analytic=analytic,
            sequence=sequence,
            meta_only=meta_only,
            nondifferentiable_outputs=nondifferentiable_outputs,
            name=name,
        )
        if registry is None:
            refuse_duplicate(made.name, value, PRIMITIVES, DERIVED)
            PRIMITIVES[made.name] = made
        else:
            refuse_duplicate(made.name, value, registry)
            registry[made.name] = made
        return made

    return register
