"""``check_gradients(function, strategy)``: bugs that show at some inputs only, the smallest of them, and what is drawn."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, find, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from gradcheck_suite import GradientError, Report, check_gradients
from gradcheck_suite import strategies as gs
from gradcheck_suite.capture.spelling import expression
from gradcheck_suite.errors import ConfigurationError, InputError, ModelError, NothingToVerifyError


def function(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    class Planted(Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            ctx.save_for_backward(*inputs)
            return forward(*inputs)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return backward(*cotangents, *ctx.saved_tensors)

    return Planted.apply


def minimal(report: Report) -> Any:
    """The input that the report prints, made by running what it prints."""
    assert not report.ok
    assert "minimal input: " in report.notes[0]
    lines = [line for line in report.reproduction.splitlines() if line.startswith("x")]
    names: dict[str, Any] = {"torch": torch}
    exec("\n".join(lines), names)
    found = tuple(names[line.split(" = ")[0]] for line in lines)
    return found[0] if len(found) == 1 else found


def cosine_of_memory(g: Tensor, x: Tensor) -> Tensor:
    """What a kernel does that reads its argument's memory from the start and in order."""
    size = x.untyped_storage().nbytes() // x.element_size()
    memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage(), 0, (size,), (1,))
    return g * memory[: x.numel()].view(x.shape).cos() if size >= x.numel() else g * x.cos()


# ------------------------------------------------------------------------------------------------- planted bugs

negative = function(torch.sin, lambda g, x: torch.where(x < 0, 0.0, g * x.cos()))
at_zero = function(torch.sinc, lambda g, x: g * (x * torch.pi).cos() / x - g * torch.sinc(x) / x)
overflowing = function(F.softplus, lambda g, x: g * torch.where(x > 50, 0.5, x.sigmoid()))
ties = function(torch.sin, lambda g, x: g * x.cos() * (2 if x.unique().numel() < x.numel() else 1))
fixed_mean = function(lambda x: x.mean(0), lambda g, x: (g / 4).expand_as(x))
first_rows = function(torch.sin, lambda g, x: torch.cat([g[:32] * x[:32].cos(), g[32:] * 0]))
contiguous_only = function(torch.sin, lambda g, x: g * x.cos() * (1 if x.is_contiguous() else 2))
expanded_only = function(torch.sin, lambda g, x: g * x.cos() * (2 if 0 in x.stride() else 1))
from_memory = function(torch.sin, cosine_of_memory)
without_sum = function(lambda x, y: x * y, lambda g, x, y: ((g * y)[(0,) * (g.dim() - x.dim())], g * x))
third_column = function(torch.sin, lambda g, x: g * x.cos() * (torch.arange(x.shape[1], dtype=x.dtype) != 2))

MATRICES = gs.tensors(gs.shapes(2, 2, min_side=1))


@pytest.mark.parametrize(
    ("wrong", "strategy", "expected"),
    [
        (negative, gs.tensors(), torch.tensor(-1.0)),
        (at_zero, gs.tensors(gs.shapes(1, 2)), torch.tensor([0.0])),
        (overflowing, gs.tensors(), torch.tensor(1e4)),
        (ties, gs.tensors(gs.shapes(1, 1, min_side=1)), torch.tensor([0.0, 0.0])),
        (fixed_mean, gs.tensors(gs.shapes(1, min_side=1)), torch.tensor([0.0])),
        (first_rows, gs.tensors(gs.shapes(1, 1)), torch.zeros(33)),
        (third_column, MATRICES, torch.zeros(1, 3)),
    ],
    ids=["negative", "zero", "large", "ties", "size of the mean", "large batch", "third column"],
)
def test_a_bug_of_values_or_shapes_is_found_at_its_smallest_input(
    wrong: Callable[..., Any], strategy: Any, expected: Tensor
) -> None:
    report = check_gradients(wrong, strategy, max_examples=100)
    found = minimal(report)
    assert torch.equal(found, expected), report.notes[0]
    assert report.errors
    assert report.errors[0].location is not None


@pytest.mark.parametrize(
    ("wrong", "strategy", "strides"),
    [
        (expanded_only, gs.tensors(), (0,)),
        (contiguous_only, gs.tensors(layout=gs.layouts("contiguous", "transposed")), (1, 2)),
        (contiguous_only, gs.tensors(gs.shapes(1, 1), layout=gs.layouts("contiguous", "sliced")), (2,)),
    ],
    ids=["expanded", "transposed", "sliced"],
)
def test_a_bug_of_layouts_keeps_its_strides(
    wrong: Callable[..., Any], strategy: Any, strides: tuple[int, ...]
) -> None:
    found = minimal(check_gradients(wrong, strategy, max_examples=100))
    assert found.numel() <= 4
    assert (found.stride(), found.storage_offset()) == (strides, 0)
    assert not found.abs().max()


def test_a_bug_of_offsets_and_order_in_memory() -> None:
    found = minimal(check_gradients(from_memory, gs.tensors(), max_examples=100))
    assert found.numel() <= 4
    assert found.storage_offset() or not found.is_contiguous()


def test_channels_last() -> None:
    wrong = function(torch.sin, lambda g, x: g * x.cos() * (2 if x.stride(1) == 1 and x.shape[1] > 1 else 1))
    strategy = gs.tensors(
        gs.shapes(4, 4, min_side=1, max_side=2), layout=gs.layouts("contiguous", "channels_last")
    )
    found = minimal(check_gradients(wrong, strategy, max_examples=100))
    assert found.numel() <= 4
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_bug_of_broadcasting() -> None:
    x, y = minimal(check_gradients(without_sum, gs.broadcastable(), max_examples=100))
    assert x.dim() < y.dim()
    assert x.numel() <= 2
    assert y.numel() <= 8


def test_a_bug_of_empty_tensors_raises_with_the_input() -> None:
    unshaped = function(torch.sum, lambda g, x: g.expand(x.shape) if x.numel() else g)
    with pytest.raises(ModelError, match=r"minimal input: torch\.empty\(\(0,\), dtype=torch\.float32\)"):
        check_gradients(unshaped, gs.tensors(), max_examples=50)


def test_a_view_in_a_backward_raises_with_the_input() -> None:
    viewing = function(torch.sin, lambda g, x: (g.reshape(-1) * x.view(-1).cos()).view(x.shape))
    with pytest.raises(ModelError) as raised:
        check_gradients(viewing, gs.tensors(), max_examples=100)
    assert "view size is not compatible" in str(raised.value)
    assert "\nx = torch." in str(raised.value)


TWINS: dict[str, tuple[Callable[..., Any], Any]] = {
    "sin": (function(torch.sin, lambda g, x: g * x.cos()), gs.tensors(dtype=gs.dtypes())),
    "mean": (
        function(lambda x: x.mean(0), lambda g, x: (g / len(x)).expand_as(x)),
        gs.tensors(gs.shapes(1, min_side=1)),
    ),
    "ties": (
        function(lambda x: x.amax(), lambda g, x: g * (x == x.amax()) / (x == x.amax()).sum()),
        gs.tensors(gs.shapes(1, 1, min_side=1)),
    ),
    "softmax": (lambda x: x.softmax(-1), gs.tensors()),
    "softplus": (F.softplus, gs.tensors()),
    "power": (lambda x: x**3, gs.tensors(dtype=gs.dtypes(half=True, complex=True))),
    "cumulative product": (lambda x: x.cumprod(0), gs.tensors(gs.shapes(1, large_batches=False))),
    "product": (torch.prod, gs.tensors()),
    "logarithm": (torch.log, gs.tensors(min_value=0.25)),
    "broadcasting": (lambda x, y: x * y.tanh() + y, gs.broadcastable()),
    "inverse": (torch.linalg.inv, gs.lower_triangular(batch=gs.shapes(0, 1), dtype=torch.float64)),
    "solve": (
        lambda u: torch.linalg.solve_triangular(u, u.sum(-1, keepdim=True), upper=True),
        gs.upper_triangular(dtype=torch.float64),
    ),
    "determinant": (torch.linalg.det, gs.orthogonal(dtype=torch.float64)),
    "quadratic form": (lambda a: torch.logdet(a @ a.mT), gs.positive_definite(dtype=torch.float64)),
    "entropy": (lambda p: -(p * p.log()).sum(-1), gs.simplex(batch=gs.shapes(0, 1))),
    "symmetric": (lambda a: (a @ a).diagonal(dim1=-2, dim2=-1), gs.symmetric()),
    "embedding": (lambda w, i: F.embedding(i, w), (gs.tensors((4, 3)), gs.indices(4))),
    "layer norm": (
        lambda x: F.layer_norm(x, (x.shape[-1],)),
        gs.tensors(gs.shapes(1, min_side=1), elements=st.integers(-8, 8).map(float)),
    ),
    "convolution": (
        lambda x, w: F.conv2d(x, w, padding=1),
        (gs.tensors((2, 2, 4, 3)), gs.tensors((3, 2, 3, 3))),
    ),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", TWINS)
def test_right_twins_are_silent(name: str, seed: int) -> None:
    right, strategy = TWINS[name]
    report = check_gradients(right, strategy, seed=seed)
    assert report.ok, str(report)
    assert report.counts["examples"] > 1
    assert "different examples checked with seed" in report.notes[0]
    assert not report.reproduction


# ---------------------------------------------------------------------------------------------------- the report


def told(report: Report) -> tuple[Any, ...]:
    return (
        report.notes,
        report.reproduction,
        report.findings,
        [(g.name, g.shape, g.outcome) for g in report.gradients],
        report.unverified,
        dict(report.counts),
    )


@pytest.mark.parametrize("checked", [negative, torch.sin], ids=["wrong", "right"])
def test_the_same_seed_tells_the_same(checked: Callable[..., Any]) -> None:
    first, again = (check_gradients(checked, gs.tensors(), seed=3) for _ in range(2))
    assert told(first) == told(again)


def test_another_seed_draws_other_examples() -> None:
    seen: list[set[str]] = []
    for seed in range(2):
        texts: set[str] = set()
        check_gradients(
            lambda x, texts=texts: (texts.add(expression(x)), x.sin())[1], gs.tensors(), seed=seed
        )
        seen.append(texts)
    assert seen[0] - seen[1]


def test_the_reproduction_runs_and_the_report_says_how_it_was_found() -> None:
    report = check_gradients(lambda x: negative(x["of"]) * x["by"], {"of": gs.tensors((2,)), "by": 3.0})
    assert "found after " in report.notes[0]
    assert " of 25 examples; minimal input: " in report.notes[0]
    with pytest.raises(GradientError, match="minimal input"):
        report.raise_for_findings()
    single = check_gradients(negative, gs.tensors(), max_examples=100)
    names: dict[str, Any] = {"function": negative}
    with pytest.raises(GradientError):
        exec(single.reproduction, names)


def test_keyword_arguments_are_drawn_too() -> None:
    wrong = function(lambda x: x.sum(), lambda g, x: g.expand_as(x))

    def scaled(x: Tensor, *, power: int) -> Tensor:
        return wrong(x) * (x.detach() ** power).sum() if power > 2 else wrong(x)

    report = check_gradients(
        scaled, gs.tensors((2,), layout="contiguous"), kwargs={"power": st.integers(1, 4)}
    )
    assert report.counts["examples"] > 1
    lying = function(torch.sin, lambda g, x: g)
    found = check_gradients(
        lambda x, power: lying(x) if power > 2 else x.sin(),
        gs.tensors((1,)),
        kwargs={"power": st.integers(1, 4)},
    )
    assert "kwargs={'power': 3}" in found.notes[0]


def test_what_no_example_verifies_is_said() -> None:
    mixed = st.one_of(gs.tensors((2,)), gs.tensors((2,), torch.int64))
    report = check_gradients(lambda x: x * 2, mixed)
    assert report.ok
    assert any(entry.subject == "examples without a gradient" for entry in report.unverified)
    with pytest.raises(NothingToVerifyError):
        check_gradients(lambda x: x * 2, gs.tensors((2,), torch.int64))


def test_an_input_may_be_refused_by_assume() -> None:
    def root(x: Tensor) -> Tensor:
        assume(bool((x > 0).all()))
        return x.sqrt()

    report = check_gradients(root, gs.tensors((2,)))
    assert report.ok, str(report)
    assert report.counts["examples"] > 1


def test_a_budget_is_kept_and_what_did_not_fit_is_said() -> None:
    report = check_gradients(torch.sin, gs.tensors(), max_examples=100_000, budget=0.5)
    assert report.ok
    assert "the budget was spent after " in report.notes[1]


def test_errors() -> None:
    with pytest.raises(ConfigurationError, match="max_examples=0"):
        check_gradients(torch.sin, gs.tensors(), max_examples=0)
    with pytest.raises(InputError, match="gave no example"):
        check_gradients(torch.sin, gs.tensors().filter(lambda x: False))
    with pytest.raises(ValueError, match="layout 'diagonal' is not known"):
        gs.tensors(layout="diagonal")
    with pytest.raises(InputError, match="NaN"):
        check_gradients(torch.sin, gs.tensors(elements=st.just(float("nan"))))


# --------------------------------------------------------------------------------------- beside Hypothesis itself


@settings(deadline=None, max_examples=10)
@given(x=gs.tensors(gs.shapes(min_side=1)))
def test_check_gradients_inside_given(x: Tensor) -> None:
    check_gradients(torch.sin, x).raise_for_findings()


@settings(deadline=None, max_examples=3)
@given(data=st.data())
def test_strategies_within_given_are_refused(data: Any) -> None:
    with pytest.raises(ConfigurationError, match="inside a test that Hypothesis already runs"):
        check_gradients(torch.sin, gs.tensors())
    check_gradients(torch.sin, data.draw(gs.tensors((2,)))).raise_for_findings()


def test_random_numbers_are_under_control_and_put_back() -> None:
    torch.manual_seed(11)
    np.random.seed(11)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    noise = st.integers(1, 3).map(lambda n: torch.randn(n))
    reports = [check_gradients(negative, noise) for _ in range(2)]
    assert told(reports[0]) == told(reports[1])
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()


def test_arrays_become_tensors() -> None:
    arrays = st.lists(st.floats(-2, 2), min_size=2, max_size=2).map(np.array)
    assert check_gradients(torch.nn.Linear(2, 1), arrays).ok


def test_importing_the_package_imports_neither_torch_nor_hypothesis() -> None:
    code = (
        "import sys, gradcheck_suite\n"
        "assert not {'torch', 'hypothesis', 'numpy'} & set(sys.modules)\n"
        "from gradcheck_suite import check_gradients\n"
        "check_gradients(lambda x: x * 2, __import__('torch').ones(2))\n"
        "assert 'hypothesis' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ------------------------------------------------------------------------------------------------ what is drawn

LOOSE = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)


@LOOSE
@given(
    gs.tensors(
        dtype=st.sampled_from(
            [
                torch.float64,
                torch.float32,
                torch.float16,
                torch.bfloat16,
                torch.complex64,
                torch.int64,
                torch.bool,
            ]
        ),
        allow_nan=True,
        allow_infinity=True,
    )
)
def test_the_spelling_makes_the_same_tensor(x: Tensor) -> None:
    again = eval(expression(x), {"torch": torch})
    assert (again.shape, again.dtype) == (x.shape, x.dtype)
    if x.numel():
        assert again.storage_offset() == x.storage_offset()
        assert [s for s, n in zip(again.stride(), x.shape) if n > 1] == [
            s for s, n in zip(x.stride(), x.shape) if n > 1
        ]
    parts = (torch.view_as_real(again), torch.view_as_real(x)) if x.is_complex() else (again, x)
    assert torch.equal(parts[0].isnan(), parts[1].isnan())
    assert torch.equal(parts[0].nan_to_num(nan=7.0), parts[1].nan_to_num(nan=7.0))
    if x.is_floating_point():
        assert torch.equal(torch.signbit(again) | again.isnan(), torch.signbit(x) | x.isnan())


@LOOSE
@given(
    gs.symmetric(batch=gs.shapes(0, 1)), gs.positive_definite(), gs.lower_triangular(), gs.upper_triangular()
)
def test_matrices_lie_on_their_manifold(s: Tensor, a: Tensor, low: Tensor, up: Tensor) -> None:
    assert torch.equal(s, s.mT)
    assert torch.equal(a, a.mT)
    assert (torch.linalg.eigvalsh(a.double()) > 0).all()
    assert torch.equal(low, low.tril())
    assert torch.equal(up, up.triu())
    assert (low.diagonal() > 0).all()
    assert (up.diagonal() > 0).all()


@LOOSE
@given(gs.orthogonal(dtype=torch.float64), gs.simplex(batch=(2,), dtype=torch.float64))
def test_orthogonal_and_simplex(q: Tensor, p: Tensor) -> None:
    assert torch.allclose(q @ q.mT, torch.eye(len(q), dtype=q.dtype), atol=1e-12)
    assert torch.allclose(p.sum(-1), torch.ones(2, dtype=p.dtype))
    assert (p > 0).all()


@LOOSE
@given(gs.broadcastable(3), gs.broadcastable_shapes(2), gs.indices(3))
def test_broadcasting_and_indices(xs: Any, shapes: Any, i: Tensor) -> None:
    torch.broadcast_shapes(*(x.shape for x in xs))
    torch.broadcast_shapes(*shapes)
    assert i.dtype == torch.int64
    assert ((i >= 0) & (i < 3)).all()


@pytest.mark.parametrize(
    "wanted",
    [
        lambda x: x.numel() == 0,
        lambda x: x.dim() == 0,
        lambda x: x.dim() > 0 and len(x) > 100,
        lambda x: x.dim() == 4 and x.shape[1] > 1 and x.stride(1) == 1 and x.shape[2] > 1,
        lambda x: any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape)),
        lambda x: x.storage_offset() > 0,
        lambda x: x.numel() > 1 and not x.is_contiguous() and 0 not in x.stride(),
        lambda x: x.numel() > 2 and x.unique().numel() < x.numel(),
        lambda x: bool((torch.signbit(x) & (x == 0)).any()),
        lambda x: bool((x.abs() > 1e3).any()),
        lambda x: bool(((x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)).any()),
    ],
    ids=[
        "empty",
        "scalar",
        "large batch",
        "channels last",
        "expanded",
        "offset",
        "strided",
        "ties",
        "minus zero",
        "far",
        "subnormal",
    ],
)
def test_everything_that_breaks_a_backward_is_drawn(wanted: Callable[[Tensor], bool]) -> None:
    find(gs.tensors(), wanted, settings=settings(LOOSE, max_examples=3000, database=None))


def test_small_is_what_tests_shrink_to() -> None:
    quick = settings(LOOSE, database=None, max_examples=1000)
    assert expression(find(gs.tensors(), lambda x: x.numel() > 1, settings=quick)) == (
        "torch.tensor([0.0, 0.0], dtype=torch.float32)"
    )
    assert torch.equal(find(gs.positive_definite(), lambda a: len(a) > 1, settings=quick), torch.eye(2))
    assert find(gs.orthogonal(), lambda a: True, settings=quick).tolist() == [[1.0]]
    assert find(gs.simplex(), lambda p: len(p) == 2, settings=quick).tolist() == [0.5, 0.5]


def test_the_documents_examples_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "strategies.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "strategies.md", "exec"), names)
    (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    assert capsys.readouterr().out.strip() == shown.strip()
