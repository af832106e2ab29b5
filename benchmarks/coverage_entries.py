"""What is measured: torch's own databases of operations and modules and the zoo, entry by entry.

An entry is one operation, one module or one model. Every sample that torch makes for it is run once, forward and
backward, under the recorder, and every node of the backward is looked at. Nothing is left out by hand: an entry that
cannot be run is counted and named.
"""

from __future__ import annotations

import ast
import fnmatch
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from gradcheck_suite.errors import ModelError, NothingToVerifyError
from gradcheck_suite.evidence import NodeRecord, NodeVerdict, Outcome, Testimony
from gradcheck_suite.witnesses.engine import check_node
from gradcheck_suite.witnesses.fallback import fallback_for
from gradcheck_suite.witnesses.sums import check_sums
from gradcheck_suite.witnesses.torch_reverse import ReverseRun, record_reverse

__all__ = ["PARTS", "Entry", "Result", "entries", "measure"]

PARTS = ("op_db", "module_db", "zoo")
HOW = ("meaning", "decomposition", "numerical", "inconclusive")
MOST_REASONS = 12
FORWARD = "the engine's forward value differs from torch's"


@dataclass(frozen=True)
class Run:
    """One forward of an entry.

    Attributes:
        function: what is run; takes ``args`` and ``kwargs``.
        leaves: tensors that are differentiated with respect to, by name.
        modules: for module paths.
        buffers: further tensors that exist before.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: dict[str, torch.Tensor]
    modules: tuple[torch.nn.Module, ...] = ()
    buffers: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One operation, module or model: a name and its runs, made on demand."""

    part: str
    name: str
    runs: Callable[[], Iterator[Run]]


@dataclass
class Result:
    """What was found out about an entry.

    Attributes:
        runs: how many were run; ``without_gradient`` of them have nothing to verify.
        nodes: by how they were verified.
        disagreements: texts, one per gradient that differs.
        forward: texts, one per engine value that differs from torch's.
        torch_bugs: disagreements of either kind that have a reproduction in docs/torch_bugs, by its name.
        reasons: why nodes or sums were not verified.
        error: what was raised, or "".
    """

    part: str
    name: str
    runs: int = 0
    without_gradient: int = 0
    nodes: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    torch_bugs: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    error: str = ""
    seconds: float = 0.0

    @property
    def verified(self) -> bool:
        """Every node of every run was verified by a meaning, a decomposition or numerically, and all agree."""
        return not (self.error or self.disagreements or self.forward or self.reasons or self.torch_bugs)


# -- the three parts -------------------------------------------------------------------------------------------


def entries(part: str, *, quick: bool = False) -> list[Entry]:
    """The entries of a part; ``quick`` takes the first sample of each operation and module, and every eighth model."""
    if part == "op_db":
        return _op_entries(1 if quick else None)
    if part == "module_db":
        return _module_entries(1 if quick else None)
    from .zoo import zoo_entries

    return zoo_entries()[:: 8 if quick else 1]


def _op_entries(most: int | None) -> list[Entry]:
    from torch.testing._internal.common_methods_invocations import op_db

    found = []
    for op in op_db:
        if op.supports_autograd and torch.float64 in op.supported_backward_dtypes("cpu"):
            found.append(Entry("op_db", op.formatted_name, lambda op=op: _op_runs(op, most)))
    return found


def _op_runs(op: Any, most: int | None) -> Iterator[Run]:
    for number, sample in enumerate(op.sample_inputs("cpu", torch.float64, requires_grad=True)):
        if most is not None and number >= most:
            return
        # torch's own gradient tests call the operation through this wrapper (which makes an input Hermitian where the
        # operation means one) and look at what this makes of the output (for a factorisation, which is defined up to
        # signs or phases, a quantity that is not).
        process = sample.output_process_fn_grad

        def function(*args: Any, _process: Callable[[Any], Any] = process, **kwargs: Any) -> Any:
            return _process(op.gradcheck_wrapper(op.get_op(), *args, **kwargs))

        args, kwargs = _fresh(((sample.input, *sample.args), sample.kwargs))
        yield Run(function, args, kwargs, _leaves((args, kwargs)))


def _module_entries(most: int | None) -> list[Entry]:
    from torch.testing._internal.common_modules import module_db

    found = []
    for info in module_db:
        for training in (True, False):
            name = f"{info.name} ({'train' if training else 'eval'})"
            found.append(Entry("module_db", name, lambda info=info, t=training: _module_runs(info, t, most)))
    return found


def _module_runs(info: Any, training: bool, most: int | None) -> Iterator[Run]:
    made = info.module_inputs_func(info, "cpu", torch.float64, True, training)
    done = 0
    for sample in made:
        if sample.forward_input is None or (most is not None and done >= most):
            continue
        done += 1
        module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
        module = module.to("cpu", torch.float64).train(training)
        args, kwargs = _fresh((sample.forward_input.args, sample.forward_input.kwargs))
        if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
            module(*args, **kwargs)
        leaves = {**dict(module.named_parameters()), **_leaves((args, kwargs))}
        yield Run(module, tuple(args), dict(kwargs), leaves, (module,), tuple(module.buffers()))


def _fresh(tree: Any) -> Any:
    """Leaves in place of tensors that were computed before the run, where nobody watched."""

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.grad_fn is not None:
            return value.detach().requires_grad_()
        return value

    return tree_map(leaf, tree)


def _leaves(tree: Any) -> dict[str, torch.Tensor]:
    """Every tensor that wants a gradient, numbered."""
    flat, _ = tree_flatten(tree)
    return {
        f"inputs[{i}]": t
        for i, t in enumerate(flat)
        if isinstance(t, torch.Tensor) and t.requires_grad and t.grad_fn is None
    }


# -- measuring ---------------------------------------------------------------------------------------------------


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: an exception out of a signal handler can be lost in a callback that ignores exceptions.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(entry: Entry, *, seconds: int = 180) -> Result:
    """Run every sample of an entry and look at every node of its backward."""
    result = Result(entry.part, entry.name)
    began = time.perf_counter()
    torch.manual_seed(0)
    try:
        with _limited(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for run in entry.runs():
                torch.manual_seed(1)
                result.runs += 1
                _measure_run(run, result)
    except Exception as error:  # an entry that cannot be run is counted and named, and the next one goes on
        result.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:400]
    result.seconds = time.perf_counter() - began
    return result


def _measure_run(run: Run, result: Result) -> None:
    try:
        recorded = record_reverse(
            run.function,
            run.args,
            run.kwargs,
            named_leaves=run.leaves,
            buffers=run.buffers,
            modules=run.modules,
        )
    except NothingToVerifyError:
        result.without_gradient += 1
        return
    except ModelError as error:
        cause = error.__cause__
        result.reasons[f"a sample raised {type(cause).__name__}: {str(cause).splitlines()[0]}"[:300]] += 1
        return
    _measure_nodes(recorded, result)


def _measure_nodes(run: ReverseRun, result: Result) -> None:
    trace = run.trace
    fallback = fallback_for(run.recorder, run.autograd_nodes)
    for key, node in trace.nodes.items():
        if key < 0 or not node.ran:
            continue
        verdict, _ = check_node(node, run.probe, fallback=fallback)
        _count(node, verdict, result)
    for testimony in check_sums(trace, trace.leaf_gradients).values():
        if testimony.outcome is Outcome.DISAGREE:
            result.disagreements.append(f"{testimony.subject}: {_numbers(testimony)}")
        elif testimony.outcome is Outcome.INCONCLUSIVE:
            _add_reason(result, f"{testimony.subject}: {testimony.reason}")


def _count(node: NodeRecord, verdict: NodeVerdict, result: Result) -> None:
    result.nodes[verdict.how or "inconclusive"] += 1
    for testimony in verdict.testimonies:
        forward = FORWARD in testimony.reason
        if testimony.outcome is Outcome.AGREE and not forward:
            continue
        text = f"{verdict.op}({_arguments(node)}): {testimony.subject}: {_numbers(testimony)}"
        bug = next(
            (name for call, name in known_torch_bugs().items() if fnmatch.fnmatchcase(text, call)), None
        )
        if bug is not None and (forward or testimony.outcome is Outcome.DISAGREE):
            result.torch_bugs[bug] += 1
            continue
        if forward:
            result.forward.append(text)
        elif testimony.outcome is Outcome.DISAGREE:
            result.disagreements.append(text)
        else:
            _add_reason(result, f"{verdict.op}: {testimony.reason}")


@lru_cache(maxsize=1)
def known_torch_bugs() -> dict[str, str]:
    """Reproduction by pattern of a call: docs/torch_bugs/*.py name the calls they are about in ``OPS``."""
    found: dict[str, str] = {}
    for path in sorted((Path(__file__).parents[1] / "docs" / "torch_bugs").glob("*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "OPS":
                found.update(dict.fromkeys(ast.literal_eval(statement.value), path.name))
    return found


def _add_reason(result: Result, reason: str) -> None:
    if reason in result.reasons or len(result.reasons) < MOST_REASONS:
        result.reasons[reason] += 1
    else:
        result.reasons["further reasons"] += 1


def _arguments(node: NodeRecord) -> str:
    if not node.ops:
        return ""

    def say(value: Any) -> str:
        if hasattr(value, "describe"):
            plain = value.strides == _contiguous(value.shape)
            return str(value.describe()) + ("" if plain else f" strides {list(value.strides)}")
        if isinstance(value, list | tuple):
            return "[" + ", ".join(say(v) for v in value) + "]"
        return str(value)

    op = node.ops[-1]
    return ", ".join([*map(say, op.args), *(f"{k}={say(v)}" for k, v in op.kwargs.items())])[:300]


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _numbers(testimony: Testimony) -> str:
    c = testimony.comparison
    if c is None:
        return testimony.reason
    text = (
        f"{c.differing} of {c.elements} differ, worst at {list(c.index)}: expected {c.expected:.10g}, torch "
        f"{c.actual:.10g}, error {c.error:.3g}, tolerance {c.tolerance:.3g}, scale {c.scale:.3g}"
    )
    if testimony.value is not None:
        text += f", finite difference {testimony.value:.10g}"
    for more in (c.pattern, testimony.reason):
        text += f"; {more}" if more else ""
    return text
