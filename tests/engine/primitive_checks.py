"""What must hold for one primitive at one sample; raises AssertionError otherwise.

The reference is the primitive's own value function: complex step where the primitive is analytic and the
sample real, else Richardson extrapolation of central differences, which carries its own error estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradcheck_suite import engine
from gradcheck_suite.engine import NotDifferentiableError, Primitive, Tensor
from gradcheck_suite.engine import ops as e

TOLERANCE = 2e-7
STEP = 4e-3


def _projectors(v: Tensor) -> Any:
    """sum_k k v_k v_k^H: what remains of eigenvectors when each may turn by a phase of its own."""
    weights = np.arange(1.0, v.shape[-1] + 1, dtype=v.data.real.dtype)
    return e.matmul(v * weights, e.conj(e.swapaxes(v, axis1=-2, axis2=-1)))


# Complex eigenvectors are defined up to a phase that LAPACK chooses; what is differentiable is invariant.
INVARIANTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "eigh": lambda w, v: (w, _projectors(v)),
    "eig": lambda w, v: (w, _projectors(v)),
    "svd": lambda u, s, vh: (
        s,
        _projectors(u),
        e.matmul(u * np.arange(1.0, s.shape[-1] + 1, dtype=s.dtype), vh),
    ),
}


def is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fc"


class Case:
    """A primitive at a sample, as a function of the flat list of its floating arguments."""

    def __init__(self, primitive: Primitive, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.primitive, self.args, self.kwargs = primitive, args, kwargs
        self.at: list[tuple[int, int | None]] = []
        self.undeclared: list[int] = []
        declared = primitive.differentiable_arguments()
        for i, arg in enumerate(args):
            if i == primitive.sequence:
                self.at += [(i, k) for k, member in enumerate(arg) if is_float(member)]
            elif is_float(arg) and primitive.arguments[i] in declared:
                self.at.append((i, None))
            elif is_float(arg):
                self.undeclared.append(i)
        self.point = [args[i] if k is None else args[i][k] for i, k in self.at]
        turning = any(x.dtype.kind == "c" for x in self.point) or primitive.name == "eig"
        self.invariants = INVARIANTS.get(primitive.name) if turning else None

    def fill(self, values: list[Any]) -> list[Any]:
        full = [list(a) if i == self.primitive.sequence else a for i, a in enumerate(self.args)]
        for (i, k), value in zip(self.at, values):
            if k is None:
                full[i] = value
            else:
                full[i][k] = value
        return full

    def __call__(self, *values: Any) -> list[Tensor]:
        """The differentiable outputs."""
        out = self.primitive(*self.fill(list(values)), **self.kwargs)
        if self.invariants is not None:
            out = self.invariants(*out)
        return [
            o
            for o in (out if isinstance(out, tuple) else (out,))
            if isinstance(o, Tensor) and o.dtype.kind in "fc"
        ]

    def raw(self, values: list[Any]) -> list[Any]:
        """The same on bare arrays, without the tape."""
        if self.invariants is not None:
            return [o.data for o in self(*values)]
        full = [
            list(map(np.asarray, a)) if i == self.primitive.sequence else a
            for i, a in enumerate(self.fill(values))
        ]
        full += [self.primitive.optional[name] for name in self.primitive.arguments[len(full) :]]
        out = self.primitive.value(*full, **{**self.primitive.defaults, **self.kwargs})
        outs = out if isinstance(out, tuple) else (out,)
        kept = [o for i, o in enumerate(outs) if i not in self.primitive.nondifferentiable_outputs]
        return [np.asarray(o) for o in kept if np.asarray(o).dtype.kind in "fc"]


def noise(rng: np.random.Generator, like: Any) -> np.ndarray:
    """Uniform in [-1, 1] per real component, in the shape and kind of `like`."""
    made = rng.uniform(-1, 1, like.shape)
    return made + 1j * rng.uniform(-1, 1, like.shape) if like.dtype.kind == "c" else made


def inner(a: Any, b: Any) -> float:
    """The real inner product Re <a, b>."""
    return float(np.sum(np.real(np.conj(np.asarray(a)) * np.asarray(b))))


def richardson(
    f: Callable[[float], np.ndarray], step: float = STEP, levels: int = 5
) -> tuple[np.ndarray, float]:
    """Derivative of f at 0 and an estimate of its error (Ridders: the entry where two columns agree best)."""
    table: list[list[np.ndarray]] = []
    best, error = np.asarray(np.nan), np.inf
    for level in range(levels):
        h = step / 2**level
        row = [(f(h) - f(-h)) / (2 * h)]
        for k in range(level):
            row.append(row[k] + (row[k] - table[level - 1][k]) / (4.0 ** (k + 1) - 1))
            guess = max(
                float(np.max(np.abs(row[k + 1] - row[k]), initial=0)),
                float(np.max(np.abs(row[k + 1] - table[level - 1][k]), initial=0)),
            )
            if guess < error:
                best, error = row[k + 1], guess
        table.append(row)
    return best, error


def close(actual: Any, expected: Any, scale: float, what: str, tolerance: float = TOLERANCE) -> None:
    difference = float(np.max(np.abs(np.asarray(actual) - np.asarray(expected)), initial=0.0))
    assert difference <= tolerance * max(scale, 1e-3), (
        f"{what}: differs by {difference:.3g} at scale {scale:.3g}\nactual {actual}\nexpected {expected}"
    )


def size(values: Any) -> float:
    return float(np.max(np.abs(np.asarray(values)), initial=0.0))


def numeric_tangent(case: Case, directions: list[np.ndarray]) -> list[np.ndarray]:
    """Derivative of every output along the directions, from values alone."""
    point = case.point
    outs = case.raw(point)
    real = all(v.dtype.kind == "f" for v in (*point, *outs))
    if case.primitive.analytic and real:
        h = 1e-30
        moved = case.raw([x + 1j * h * d for x, d in zip(point, directions)])
        return [np.imag(m) / h for m in moved]
    found = []
    for i in range(len(outs)):
        tangent, error = richardson(
            lambda t, i=i: case.raw([x + t * d for x, d in zip(point, directions)])[i]
        )
        assert error <= 1e-6 * max(size(tangent), 1e-2), (
            f"differences of output {i} are no reference: error {error:.2g}"
        )
        found.append(tangent)
    return found


def check_value(case: Case) -> None:
    tensors = [Tensor(x) for x in case.point]
    outs, expected = case(*tensors), case.raw(case.point)
    assert len(outs) == len(expected) >= 1
    for out, value in zip(outs, expected):
        assert out.shape == value.shape
        assert out.dtype == value.dtype
        np.testing.assert_array_equal(out.data, value)
        if not case.primitive.exact:
            assert not any(np.may_share_memory(out.data, x) for x in case.point), (
                "a rounding primitive returned a view"
            )


def check_undeclared(case: Case) -> None:
    """An argument without a VJP is refused loudly."""
    for i in case.undeclared:
        full = list(case.args)
        full[i] = Tensor(full[i], requires_grad=True)
        out = case.primitive(*full, **case.kwargs)
        first = out[0] if isinstance(out, tuple) else out
        with pytest.raises(NotDifferentiableError, match=f"'{case.primitive.arguments[i]}'"):
            engine.grad(first, full[i], Tensor(np.ones(first.shape, first.dtype)))


def pull(
    case: Case, values: list[Any], cotangents: list[Any], create_graph: bool = False
) -> tuple[Any, list[Tensor], list[Tensor]]:
    leaves = [v if isinstance(v, Tensor) else Tensor(v, requires_grad=True) for v in values]
    outs = case(*leaves)
    alive = [(o, c) for o, c in zip(outs, cotangents) if o.requires_grad]
    found = engine.grad(
        [o for o, _ in alive], leaves, [c for _, c in alive], create_graph=create_graph, allow_unused=True
    )
    return (
        [Tensor(np.zeros(x.shape, x.dtype)) if g is None else g for x, g in zip(leaves, found)],
        leaves,
        outs,
    )


def check_first_order(case: Case, rng: np.random.Generator) -> None:
    point = case.point
    cotangents = [noise(rng, o) for o in case.raw(point)]
    pulled, _, outs = pull(case, point, cotangents)
    for x, g in zip(point, pulled):
        assert g.shape == x.shape
        assert g.dtype == x.dtype
    for i, x in enumerate(point):  # one argument at a time, so that errors cannot hide in another's size
        directions = [noise(rng, y) if k == i else np.zeros_like(y) for k, y in enumerate(point)]
        expected = numeric_tangent(case, directions)

        def along(v: Any, i: int = i) -> Any:
            return tuple(case(*[v if k == i else y for k, y in enumerate(point)]))

        values, tangents = engine.jvp(along, (x,), (directions[i],))
        for out, value, tangent, truth in zip(outs, values, tangents, expected):
            np.testing.assert_array_equal(out.data, value.data)
            assert tangent.shape == out.shape
            assert tangent.dtype == out.dtype
            close(tangent.data, truth, size(truth), f"JVP of argument {i}")
        forward = sum(inner(c, t.data) for c, t in zip(cotangents, tangents))
        reverse = inner(pulled[i].data, directions[i])
        truth = sum(inner(c, t) for c, t in zip(cotangents, expected))
        scale = sum(float(np.sum(np.abs(c) * np.abs(t))) for c, t in zip(cotangents, expected))
        scale = max(scale, float(np.sum(np.abs(pulled[i].data) * np.abs(directions[i]))))
        close(reverse, truth, scale, f"VJP of argument {i}")
        close(reverse, forward, scale, f"adjoint identity of argument {i}", 1e-10)


def check_second_order(case: Case, rng: np.random.Generator) -> None:
    """The gradient of Re <v, VJP(x; w)> in x and in w, against differences of the VJP."""
    point = case.point
    weights = [noise(rng, x) for x in point]
    cotangents = [Tensor(noise(rng, o), requires_grad=True) for o in case.raw(point)]
    pulled, leaves, _ = pull(case, point, cotangents, create_graph=True)
    pairs = [(p, w) for p, w in zip(pulled, weights) if p.requires_grad]
    sources = [*leaves, *cotangents]
    if pairs:
        found = engine.grad([p for p, _ in pairs], sources, [w for _, w in pairs], allow_unused=True)
    else:
        found = (None,) * len(sources)
    directions = [noise(rng, s) for s in sources]
    actual = sum(inner(g.data, d) for g, d in zip(found, directions) if g is not None)
    scale = sum(float(np.sum(np.abs(g.data) * np.abs(d))) for g, d in zip(found, directions) if g is not None)

    def moved(t: float) -> np.ndarray:
        values = [s.data + t * d for s, d in zip(sources, directions)]
        xs, ws = values[: len(point)], values[len(point) :]
        return np.asarray(sum(inner(w, p.data) for w, p in zip(weights, pull(case, xs, ws)[0])))

    expected, error = richardson(moved)
    scale = max(scale, size(expected))
    assert error <= 2e-6 * max(scale, 1e-2), f"differences of the VJP are no reference: error {error:.2g}"
    close(actual, expected, scale, "second order", 2e-6)


def check_precision(case: Case) -> None:
    """float32 in, float32 out, values and gradients."""
    narrow = {"f": np.float32, "c": np.complex64}
    low = [Tensor(x.astype(narrow[x.dtype.kind]), requires_grad=True) for x in case.point]
    rest = [
        a.astype(narrow[a.dtype.kind]) if is_float(a) and i in case.undeclared else a
        for i, a in enumerate(case.args)
    ]
    outs = Case(case.primitive, tuple(rest), case.kwargs)(*low)
    if "dtype" not in case.kwargs:
        assert all(o.dtype in (np.float32, np.complex64) for o in outs), [o.dtype for o in outs]
    outs = [o for o in outs if o.requires_grad]
    if outs:
        found = engine.grad(outs, low, [np.ones(o.shape, o.dtype) for o in outs], allow_unused=True)
        assert all(g is None or g.dtype == x.dtype for g, x in zip(found, low))


def check_primitive(
    primitive: Primitive, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int = 1
) -> None:
    """Everything above, at one sample."""
    case = Case(primitive, args, kwargs)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        check_value(case)
        check_undeclared(case)
        if case.point:
            check_first_order(case, rng)
            check_second_order(case, rng)
            check_precision(case)
