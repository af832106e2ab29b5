"""The gradients of ``torch.compile``, beside those of the eager run that was verified.

The model is compiled anew in an otherwise empty world (fresh caches on disk, ``torch._dynamo.reset()`` before and after, the
process's counters and settings put back) and run from the same state with the same random numbers and cotangents. Fused
kernels round in other places: what that can do is measured (``witnesses/other_runs.py``).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..capture.outputs import output_tensors
from ..capture.state import rng_frozen
from ..compare.common import suspects
from ..compare.tolerance import ULPS, judge
from ..errors import ConfigurationError
from ..evidence import Array, Finding, NodeRecord, Outcome, Supplement, Testimony, Unverified
from ..wording import nearest, plural
from .budget import Budget
from .case import Case
from .other_runs import Apart, Noise, apart, as_array, gradients_of, precision_of, silenced
from .reduced_precision import tensor_float_nodes

__all__ = ["Backend", "check_backends", "read_backends"]

Backend = str | Callable[..., Any]

# Those that are not made by inductor and write nothing to its caches.
_IN_MEMORY = ("eager", "aot_eager", "aot_eager_decomp_partition")


class Accuser(Protocol):
    """The rule that words a difference between the compiled and the eager run."""

    def from_leaves(
        self,
        wrong: Sequence[Testimony],
        *,
        backend: str,
        gradients: int,
        output: Testimony | None,
        breaks: int,
        suspect: NodeRecord | None,
    ) -> Finding:
        """One finding per backend; the first of ``wrong`` is the worst."""
        ...


def read_backends(backends: object) -> tuple[Backend, ...]:
    """Understand ``backends=``: what is to be compared with the eager run.

    Raises:
        ConfigurationError: no sequence of names and callables, or an unknown name.
    """
    if isinstance(backends, str) or callable(backends):
        backends = (backends,)
    if not isinstance(backends, Sequence) or not backends:
        raise ConfigurationError(
            f"checking gradients failed: backends is {backends!r}. It names what torch.compile is to use. "
            'Pass a tuple: backends=("eager", "inductor").'
        )
    chosen: list[Backend] = []
    for backend in backends:
        if backend == "eager" or backend in chosen:
            continue
        if not callable(backend):
            known = _known_backends()
            if backend not in known:
                suggestion = nearest(str(backend), known) or f"Known here are {', '.join(known)}."
                raise ConfigurationError(
                    f"checking gradients failed: torch.compile knows no backend {backend!r}. "
                    f"A check that silently used another would be worse. {suggestion}"
                )
        chosen.append(backend)
    return tuple(chosen)


def _known_backends() -> list[str]:
    import torch._dynamo

    return sorted({"eager", "aot_eager", "inductor", *torch._dynamo.list_backends(None)})


def backend_name(backend: Backend) -> str:
    """A callable's own name, or the name it is known by."""
    if isinstance(backend, str):
        return backend
    return getattr(backend, "__qualname__", type(backend).__name__).split(".<locals>.")[-1]


@dataclass(frozen=True)
class _Run:
    """What a compiled run gave.

    Attributes:
        outputs, gradients: by path and by leaf.
        graphs: how many graphs were compiled.
        breaks: why the program was left in between, with how often.
    """

    outputs: Mapping[str, Array]
    gradients: Mapping[str, Array | None]
    graphs: int
    breaks: Mapping[str, int]


class _CannotCompile(Exception):
    """With the reason."""


def check_backends(
    case: Case,
    backends: Sequence[Backend],
    rule: Accuser,
    budget: Budget | None = None,
    step: Callable[[], None] = lambda: None,
) -> Supplement:
    """Compile the model with every backend and compare its gradients with the eager ones.

    Args:
        case: the verified run.
        backends: from :func:`read_backends`.
        rule: words what differs.
        budget: of the whole check.
        step: called after every backend.
    """
    findings: list[Finding] = []
    unverified: list[Unverified] = []
    testimonies: list[Testimony] = []
    notes: list[str] = []
    eager: dict[str, Array | None] = {
        name: None if g is None else as_array(g) for name, g in case.run.gradients.items()
    }
    again: Mapping[str, Array | None] | None = None
    noise = Noise(case.run.trace, case.seed)
    coarse = bool(tensor_float_nodes(case.run.trace.nodes.values()))
    precision = precision_of(case.run.trace, tensor_float=coarse)
    compiled = breaks = 0
    for backend in backends:
        name = backend_name(backend)
        if budget is not None and not budget.fits(0.0):
            unverified.append(Unverified(f"the gradients compiled with {name}", budget.reason))
            continue
        if again is None:
            again = _gradients(case, case.model)[1]
        try:
            run = _compiled(case, backend)
        except _CannotCompile as error:
            unverified.append(Unverified(f"the gradients compiled with {name}", str(error)))
            continue
        finally:
            case.restore()
            step()
        compiled += 1
        breaks += sum(run.breaks.values())
        found = apart(
            "compiled", f"compiled with {name}", eager, run.gradients, [(eager, again)], noise, precision
        )
        output = _first_output(case, name, run.outputs, precision)
        if found.wrong and output is not None and any(op.random for op in case.run.trace.ops):
            found = silenced(found, f"the program draws random numbers, and {name} draws others")
        testimonies.extend(found.testimonies.values())
        unverified.extend(
            Unverified(t.subject, t.reason)
            for t in found.testimonies.values()
            if t.outcome is Outcome.INCONCLUSIVE
        )
        if found.wrong:
            findings.append(
                rule.from_leaves(
                    [found.testimonies[leaf] for leaf in found.wrong],
                    backend=name,
                    gradients=len(found.testimonies),
                    output=output,
                    breaks=sum(run.breaks.values()),
                    suspect=None if output is not None else _suspect(case, found),
                )
            )
        notes.append(_note(name, run, found.testimonies))
    return Supplement(
        tuple(findings),
        tuple(unverified),
        tuple(testimonies),
        tuple(notes),
        {"backends_compared": compiled, "graph_breaks": breaks},
    )


def _suspect(case: Case, found: Apart) -> NodeRecord | None:
    """Where the backward may have been compiled wrongly: the only custom Function there, or the first node of all."""
    right = [leaf for leaf, testimony in found.testimonies.items() if testimony.outcome is Outcome.AGREE]
    nodes = [n for n in suspects(case.run.trace, found.wrong, right) if n.location is not None]
    functions = [n for n in nodes if n.function is not None]
    return functions[0] if len(functions) == 1 else nodes[0] if nodes else None


def _note(name: str, run: _Run, testimonies: Mapping[str, Testimony]) -> str:
    agreeing = sum(t.outcome is Outcome.AGREE for t in testimonies.values())
    text = (
        f"torch.compile with {name}: {plural(run.graphs, 'graph')}, "
        f"{agreeing} of {plural(len(testimonies), 'gradient')} as in eager mode"
    )
    if run.breaks:
        total = sum(run.breaks.values())
        first = next(iter(run.breaks)).strip().splitlines()[0][:120]
        text += f"; {plural(total, 'graph break')} ({first}), between them it ran eagerly"
    return text


def _first_output(case: Case, name: str, outputs: Mapping[str, Array], precision: str) -> Testimony | None:
    """The first output whose value the compiled program does not reproduce, or None."""
    for path, tensor in case.run.outputs:
        value = outputs.get(path)
        slack = 16.0 if precision in ULPS else 1.0
        outcome, comparison = judge(as_array(tensor), value, dtype=precision, slack=slack, explain=False)
        if outcome is Outcome.DISAGREE:
            return Testimony("compiled", f"{path} compiled with {name}", outcome, comparison)
    return None


def _gradients(case: Case, model: Callable[..., Any]) -> tuple[dict[str, Array], dict[str, Array | None]]:
    """Outputs by path and gradients by leaf of an unrecorded run from the state of the first."""
    case.restore()
    with rng_frozen(case.seed), torch.enable_grad():
        output = model(*case.prepared.args, **case.prepared.kwargs)
        if case.loss is not None:
            output = case.loss(output)
        found = dict(output_tensors(output))
        pairs = [
            (found[path], c) for (path, _), c in zip(case.run.outputs, case.run.cotangents) if path in found
        ]
        gradients = gradients_of([o for o, _ in pairs], [c for _, c in pairs], case.leaves)
    return {path: as_array(tensor) for path, tensor in found.items()}, gradients


def _compiled(case: Case, backend: Backend) -> _Run:
    import torch._dynamo
    from torch._dynamo.utils import counters

    model: Any = getattr(case.model, "_orig_mod", case.model)
    with _own_world(backend):
        try:
            outputs, gradients = _gradients(case, torch.compile(model, backend=backend))
        except (
            Exception
        ) as error:  # a compiler that is missing or fails raises whatever it likes, at any time
            raise _CannotCompile(f"compiling or running it failed: {_short(error)}") from error
        graphs = counters["stats"]["unique_graphs"]
        breaks = dict(counters["graph_break"])
    if not graphs:
        why = f" ({next(iter(breaks)).strip().splitlines()[0][:160]})" if breaks else ""
        raise _CannotCompile(f"nothing of it was compiled{why}")
    return _Run(outputs, gradients, graphs, breaks)


@contextmanager
def _own_world(backend: Backend) -> Iterator[None]:
    """No compiled code, cache or setting of the process is used, and what is made here is gone afterwards."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    saved = {key: Counter(value) for key, value in counters.items()}
    with ExitStack() as stack:
        # A backend that fails must say so: the setting would make it run eagerly instead, and agree.
        stack.enter_context(torch._dynamo.config.patch(suppress_errors=False, disable=False))
        if backend not in _IN_MEMORY:
            import torch._inductor.config
            from torch._inductor.utils import fresh_cache

            # Compiled in this process: no pool of workers stays behind. Random numbers as in eager mode.
            settings = {"compile_threads": 1, "fallback_random": True}
            stack.enter_context(torch._inductor.config.patch(settings))
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            stack.enter_context(fresh_cache(dir=folder))
        torch._dynamo.reset()
        counters.clear()
        try:
            yield
        finally:
            torch._dynamo.reset()
            counters.clear()
            counters.update(saved)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # "backend='inductor' raised:" goes on in the next line.
    told = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {told[:240]}"
