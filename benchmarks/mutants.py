"""Operations wrapped in custom Functions whose backward is wrong in one stated way.

The subjects are entries of torch's own database of operations (``op_db``), all of them, in its order, by this rule and
no other: the entry supports autograd in float64 on the CPU, and among its first ``SAMPLES`` sample inputs there is one
that is *usable*:

- all its tensors are dense and have a layout of strides, and at least one of them requires grad;
- the operation runs, and gives at least one floating tensor that depends on them;
- every floating argument and result is in double precision: elsewhere 1e-6 is less than rounding;
- it has at most ``MOST_ELEMENTS`` elements in what is differentiated and what comes out;
- torch's own gradient for a random cotangent is finite, observable (see below), and right: along a random direction it
  agrees with a central difference of the operation to ``AGREEMENT``. Some entries have results whose gradient torch
  leaves out (``native_layer_norm``'s mean), and an operation may be sampled at a kink; accusing it would be correct there.

A gradient is *observable* where moving its input by the input's own size moves the projected result by more than rounding,
``ROUNDING * sum(abs(cotangent * result))``: a vector's ``corrcoef`` is 1 whatever the vector is, and the 1e-16 that torch
returns as its gradient is rounding alone.

What fails the rule is counted and named with its reason. The operation is called as torch's own gradient tests call it:
through the entry's ``gradcheck_wrapper`` (which makes an input Hermitian where the operation means one) and
``output_process_fn_grad`` (which makes of a factorisation what is defined in spite of its free signs).

Each mutation is tried on the usable samples in their order; the first one whose gradient it really changes is taken. Where
there are several gradients, the one that is made wrong is drawn from a generator that is seeded with the names of the entry
and of the mutation.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

__all__ = ["MUTATIONS", "ROUNDING", "Mutant", "Mutation", "Subject", "entry_names", "subjects"]

SAMPLES = 12
MOST_ELEMENTS = 4096
AGREEMENT = 1e-4
ROUNDING = 100 * 2.0**-52
"""A change of a gradient by no more than this share of its largest element is taken for rounding."""

Gradients = list[Tensor | None]


@dataclass
class Subject:
    """One operation at one sample input, as a function of tensors.

    Attributes:
        name: of the entry.
        number: of the sample.
        function: the operation; takes the sample's arguments.
        tensors: every tensor among the arguments, those that are differentiated with ``requires_grad``.
        right: torch's gradient for ``cotangents``, by position in ``tensors``.
        terms: sum of the magnitudes of what is projected.
    """

    name: str
    number: int
    function: Callable[..., Any]
    spec: TreeSpec
    flat: list[Any]
    tensors: list[Tensor]
    random_state: Tensor
    cotangents: list[Tensor] = field(default_factory=list)
    right: Gradients = field(default_factory=list)
    terms: float = 0.0

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Every floating result of the operation."""
        waiting = iter(tensors)
        values = [next(waiting) if isinstance(value, Tensor) else value for value in self.flat]
        args, kwargs = tree_unflatten(values, self.spec)
        found, _ = tree_flatten(self.function(*args, **kwargs))
        return [v for v in found if isinstance(v, Tensor) and (v.is_floating_point() or v.is_complex())]

    def gradients(self, tensors: Sequence[Tensor], cotangents: Sequence[Tensor | None]) -> Gradients:
        """torch's own gradient of the operation, by position."""
        wants = [t.requires_grad for t in self.tensors]
        with torch.enable_grad(), torch.random.fork_rng(devices=()):
            torch.set_rng_state(self.random_state)
            leaves = [t.detach().requires_grad_(want) for t, want in zip(tensors, wants)]
            pairs = [
                (o, c) for o, c in zip(self.run(leaves), cotangents) if o.requires_grad and c is not None
            ]
            wanted = [leaf for leaf, want in zip(leaves, wants) if want]
            found = iter(
                torch.autograd.grad([o for o, _ in pairs], wanted, [c for _, c in pairs], allow_unused=True)
            )
        return [next(found) if want else None for want in wants]

    def observable(self, position: int, gradient: Tensor | None) -> bool:
        """Whether a gradient of this size is more than rounding of the result can hide."""
        value = self.tensors[position].detach()
        if gradient is None or not gradient.numel():
            return False
        size = float(value.abs().max()) or 1.0
        return float(gradient.abs().max()) * size > ROUNDING * self.terms


def wrap(mutant: Mutant) -> type[torch.autograd.Function]:
    """A Function that computes the operation of a mutant and returns torch's gradient of it, made wrong."""

    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        # Not save_for_backward: batch norm writes into its running statistics, which no gradient depends on.
        ctx.tensors = [t.detach() for t in tensors]
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(mutant.subject.random_state)
            outputs = mutant.subject.run(tensors)
        # A Function owns what it returns: neither a view of an input nor two views of one memory.
        taken = {t.untyped_storage().data_ptr() for t in tensors}
        owned = []
        for output in outputs:
            memory = output.untyped_storage().data_ptr()
            owned.append(output.clone() if memory in taken or output._is_view() else output)
            taken.add(memory)
        return tuple(owned)

    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        right = mutant.subject.gradients(ctx.tensors, cotangents)
        return tuple(mutant.spoil(right, ctx.tensors, cotangents))

    name = "Wrapped_" + mutant.subject.name.replace(".", "_").replace(" ", "_")
    return type(
        name,
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )


class Hold(torch.autograd.Function):
    """The identity, rightly: something beside the mutant that could be blamed in its place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return cotangent


@dataclass(frozen=True)
class Spoiling:
    """What a mutation works on.

    Attributes:
        subject, tensors, cotangents: the operation, its inputs and what was delivered.
        right: the gradients as they should be.
        position: which of them is made wrong.
        generator: of everything random.
    """

    subject: Subject
    tensors: Sequence[Tensor]
    cotangents: Sequence[Tensor]
    right: Gradients
    position: int
    generator: torch.Generator

    @property
    def gradient(self) -> Tensor:
        """The right gradient at the position."""
        found = self.right[self.position]
        assert found is not None
        return found

    @property
    def input(self) -> Tensor:
        """The input that it belongs to."""
        return self.tensors[self.position].detach()

    def draw(self, below: int) -> int:
        """A random index."""
        return int(torch.randint(below, (), generator=self.generator))


Spoil = Callable[[Spoiling], "Tensor | NotApplicable | None"]


class NotApplicable:
    """A mutation has nothing to do here."""


NOT_APPLICABLE = NotApplicable()


@dataclass(frozen=True)
class Mutation:
    """One way of being wrong: ``spoil`` makes of the right gradient at a position a wrong one."""

    name: str
    what: str
    spoil: Spoil


@dataclass
class Mutant:
    """A subject and what is wrong with it; ``mutation`` is None for the unmutated wrap.

    Attributes:
        change: after a backward: by how much the gradient changed, relative to its largest element; infinite where zero
            was right. NaN before, and where the mutation has nothing to do.
    """

    subject: Subject
    mutation: Mutation | None = None
    change: float = float("nan")

    @cached_property
    def function(self) -> type[torch.autograd.Function]:
        """The Function that is wrong."""
        return wrap(self)

    def spoil(self, right: Gradients, tensors: Sequence[Tensor], cotangents: Sequence[Tensor]) -> Gradients:
        """The gradients that are returned."""
        if self.mutation is None:
            return right
        generator = torch.Generator().manual_seed(
            zlib.crc32(f"{self.subject.name} {self.mutation.name}".encode())
        )
        positions = [i for i, g in enumerate(right) if g is not None and g.numel()]
        order = torch.randperm(len(positions), generator=generator).tolist()
        for number in order:
            position = positions[number]
            wrong = self.mutation.spoil(
                Spoiling(self.subject, tensors, cotangents, right, position, generator)
            )
            if isinstance(wrong, NotApplicable):
                continue
            change = relative_change(right[position], wrong)
            seen = self.subject.observable(position, right[position]) or self.subject.observable(
                position, wrong
            )
            if change > ROUNDING and seen:
                self.change = change
                return [wrong if i == position else g for i, g in enumerate(right)]
        return right

    def changes(self) -> bool:
        """Whether the gradient at the sampled point really changes."""
        self.change = float("nan")
        self.spoil(self.subject.right, [t.detach() for t in self.subject.tensors], self.subject.cotangents)
        return self.change > ROUNDING

    def program(self, *tensors: Tensor) -> list[Tensor]:
        """What is recorded: the wrapped operation between right Functions. ``line`` below is the one to be blamed."""
        held = [Hold.apply(t) if t.requires_grad else t for t in tensors]
        outputs = self.function.apply(*held)
        return [Hold.apply(o) for o in outputs]

    @property
    def line(self) -> int:
        """The line of :meth:`program` that calls the wrapped operation."""
        return Mutant.program.__code__.co_firstlineno + 3


def relative_change(right: Tensor | None, wrong: Tensor | None) -> float:
    """Largest change of an element over the largest element that is right."""
    if right is None:
        return 0.0
    scale = float(right.abs().max())
    difference = right if wrong is None else wrong - right
    change = float(difference.abs().max())
    if change == 0.0:
        return 0.0
    return change / scale if scale > 0 else float("inf")


# -- the ways of being wrong ---------------------------------------------------------------------------------------


def _one_element(s: Spoiling) -> Tensor | NotApplicable:
    nonzero = s.gradient.flatten().nonzero().flatten()
    if not len(nonzero):
        return NOT_APPLICABLE
    wrong = s.gradient.flatten().clone()
    wrong[nonzero[s.draw(len(nonzero))]] *= 1 + 1e-6
    return wrong.reshape(s.gradient.shape)


def _transposed(s: Spoiling) -> Tensor | NotApplicable:
    if s.gradient.dim() < 2:
        return NOT_APPLICABLE
    # Of a matrix that is not square the transpose is returned in the shape that autograd asks for.
    return s.gradient.transpose(-1, -2).reshape(s.gradient.shape)


def _unreduced(s: Spoiling) -> Tensor | NotApplicable:
    """The gradient of a broadcast input: one of the terms, where all of them are to be added up.

    The whole unreduced gradient would be no mutant: autograd adds it up by itself.
    """
    shape = s.input.shape
    outputs = [c.shape for c in s.cotangents]
    if len(outputs) != 1 or outputs[0] == shape:
        return NOT_APPLICABLE
    try:
        wide = s.input.expand(outputs[0]).contiguous()
        tensors = [wide if i == s.position else t for i, t in enumerate(s.tensors)]
        found = s.subject.gradients(tensors, s.cotangents)[s.position]
    except (RuntimeError, ValueError, IndexError):
        return NOT_APPLICABLE
    if found is None or found.shape != outputs[0] or not _reduces_to(found, s.gradient):
        return NOT_APPLICABLE
    extra = found.dim() - len(shape)
    first = found[(0,) * extra]
    for axis, size in enumerate(shape):
        if size == 1:
            first = first.narrow(axis, 0, 1)
    return first


def _reduces_to(wide: Tensor, gradient: Tensor) -> bool:
    return bool(torch.allclose(wide.sum_to_size(gradient.shape), gradient))


def _swapped(s: Spoiling) -> Tensor | NotApplicable:
    others = [
        g
        for i, g in enumerate(s.right)
        if i != s.position and g is not None and g.shape == s.gradient.shape and g.dtype == s.gradient.dtype
    ]
    return others[0] if others else NOT_APPLICABLE


def _missing(s: Spoiling) -> NotApplicable | None:
    return None if _several(s) else NOT_APPLICABLE


def _zeroed(s: Spoiling) -> Tensor | NotApplicable:
    return torch.zeros_like(s.gradient) if _several(s) else NOT_APPLICABLE


def _several(s: Spoiling) -> bool:
    return sum(g is not None for g in s.right) > 1


def _shifted(s: Spoiling) -> Tensor | NotApplicable:
    axes = [axis for axis, size in enumerate(s.gradient.shape) if size > 1]
    return torch.roll(s.gradient, 1, axes[s.draw(len(axes))]) if axes else NOT_APPLICABLE


def _wrong_where_negative(s: Spoiling) -> Tensor:
    value = s.input.real if s.input.is_complex() else s.input
    return torch.where(value < 0, 0.9 * s.gradient, s.gradient)


def _cotangent_ignored(s: Spoiling) -> Tensor | NotApplicable:
    found = s.subject.gradients(s.tensors, [torch.ones_like(c) for c in s.cotangents])[s.position]
    return NOT_APPLICABLE if found is None else found


MUTATIONS = (
    Mutation("one element", "one random element that is not zero, times 1 + 1e-6", _one_element),
    Mutation("sign", "the sign", lambda s: -s.gradient),
    Mutation("factor 2", "a factor of 2 is missing", lambda s: s.gradient / 2),
    Mutation("transposed", "transposed in the last two axes", _transposed),
    Mutation("unreduced", "a broadcast input gets one term in place of the sum", _unreduced),
    Mutation("none", "one of several gradients is None", _missing),
    Mutation("zero", "one of several gradients is zero", _zeroed),
    Mutation("swap", "it is the gradient of another input", _swapped),
    Mutation("shift", "shifted by one along an axis", _shifted),
    Mutation("negative", "times 0.9 where the input is negative", _wrong_where_negative),
    Mutation("cotangent", "the cotangent is taken for ones", _cotangent_ignored),
    Mutation("offset", "plus 1e-7", lambda s: s.gradient + 1e-7),
)
"""Every way of being wrong; ``swap`` leaves the other gradient right, which is harder to see than both."""


# -- the subjects --------------------------------------------------------------------------------------------------


def entry_names() -> list[str]:
    """The entries that support autograd in float64 on the CPU, in the order of torch's database."""
    return [name for name, _ in _entries()]


def _entries() -> list[tuple[str, Any]]:
    from torch.testing._internal.common_methods_invocations import op_db

    return [
        (op.formatted_name, op)
        for op in op_db
        if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu")
    ]


def subjects(names: Sequence[str] | None = None) -> Iterator[tuple[str, list[Subject], str]]:
    """Every entry with its usable samples, and the first reason why there are none."""
    for name, op in _entries():
        if names is not None and name not in names:
            continue
        found: list[Subject] = []
        reasons: list[str] = []
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, sample in enumerate(op.sample_inputs("cpu", torch.float64, requires_grad=True)):
                if number >= SAMPLES:
                    break
                subject = _usable(name, number, op, sample)
                if isinstance(subject, Subject):
                    found.append(subject)
                else:
                    reasons.append(subject)
        yield name, found, "" if found else (reasons[0] if reasons else "it has no sample input")


def _usable(name: str, number: int, op: Any, sample: Any) -> Subject | str:
    """The sample as a subject, or why it is not usable."""
    process = sample.output_process_fn_grad

    def function(*args: Any, **kwargs: Any) -> Any:
        return process(op.gradcheck_wrapper(op.get_op(), *args, **kwargs))

    flat, spec = tree_flatten(((sample.input, *sample.args), sample.kwargs))
    flat = [v.detach().requires_grad_(v.requires_grad) if isinstance(v, Tensor) else v for v in flat]
    tensors = [v for v in flat if isinstance(v, Tensor)]
    if any(t.layout is not torch.strided or t.is_nested for t in tensors):
        return "a tensor has no strides"
    if not any(t.requires_grad for t in tensors):
        return "nothing requires grad"
    subject = Subject(name, number, function, spec, flat, tensors, torch.get_rng_state())
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=()):
            outputs = subject.run(tensors)
            depending = any(o.requires_grad for o in outputs)
    except Exception as error:  # whatever an operation raises is the reason
        return f"it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
    if not depending:
        return "no floating result depends on what requires grad"
    if any(o.layout is not torch.strided or o.is_nested for o in outputs):
        return "a result has no strides"
    double = (torch.float64, torch.complex128)
    if any((v.is_floating_point() or v.is_complex()) and v.dtype not in double for v in [*tensors, *outputs]):
        return "not everything is in double precision"
    wanted = [t for t in tensors if t.requires_grad]
    if max(sum(t.numel() for t in wanted), sum(o.numel() for o in outputs)) > MOST_ELEMENTS:
        return f"more than {MOST_ELEMENTS} elements"
    generator = torch.Generator().manual_seed(number)
    subject.cotangents = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in outputs]
    subject.terms = sum(float((c * o.detach()).abs().sum()) for c, o in zip(subject.cotangents, outputs))
    try:
        subject.right = subject.gradients([t.detach() for t in tensors], subject.cotangents)
    except Exception as error:  # likewise
        text = (
            f"its backward raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        return text[:160]
    if not all(bool(torch.isfinite(g).all()) for g in subject.right if g is not None):
        return "torch's gradient is not finite"
    if not any(subject.observable(i, g) for i, g in enumerate(subject.right)):
        return "torch's gradient is zero, or no more than rounding"
    return subject if _is_right(subject, generator) else "torch's gradient is not the slope of the operation"


def _is_right(subject: Subject, generator: torch.Generator) -> bool:
    """Whether the gradient agrees with a central difference along a random direction, on any of a few step sizes."""
    base = [t.detach() for t in subject.tensors]
    ways = [
        torch.randn(t.shape, generator=generator, dtype=t.dtype) * _size(t) if g is not None else None
        for t, g in zip(base, subject.right)
    ]
    products = [(g.conj() * w).real for g, w in zip(subject.right, ways) if g is not None and w is not None]
    slope = sum(float(p.sum()) for p in products)
    scale = sum(float(p.abs().sum()) for p in products)
    for step in (1e-4, 1e-5, 1e-6, 1e-7):
        try:
            ahead, behind = (_projected(subject, base, ways, sign * step) for sign in (1.0, -1.0))
        except (
            RuntimeError
        ):  # out of the domain, like the logarithm of a negative number in a check of arguments
            continue
        if abs((ahead - behind) / (2 * step) - slope) <= AGREEMENT * scale:
            return True
    return False


def _size(value: Tensor) -> float:
    return float(value.abs().max()) or 1.0 if value.numel() else 1.0


def _projected(subject: Subject, base: Sequence[Tensor], ways: Sequence[Tensor | None], step: float) -> float:
    """The projected result with the inputs moved."""
    moved = [t.clone() if way is None else t + step * way for t, way in zip(base, ways)]
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.set_rng_state(subject.random_state)
        outputs = subject.run(moved)
    return sum(float((c.conj() * o).real.sum()) for c, o in zip(subject.cotangents, outputs))
