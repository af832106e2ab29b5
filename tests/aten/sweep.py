"""All calls the tests look at: torch's own samples run under a recorder, and the hand-written ones."""

from __future__ import annotations

import contextlib
import warnings
from functools import lru_cache

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves

from .calls import Call, Recorder
from .hand_calls import hand_calls

SAMPLES = {torch.float64: 16, torch.complex128: 5}  # later samples mostly repeat the forms of earlier ones
BACKWARDS = 3  # every third sample also runs backward, which reaches the *_backward operations

# What torch raises for samples that it makes for other devices, or that are meant to fail.
REFUSED = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)


def record(recorder: Recorder) -> None:
    """Run torch's operator database in double precision, real and complex."""
    torch.manual_seed(0)
    for op in op_db:
        if op.name.startswith("jiterator"):  # compiles for a GPU
            continue
        for dtype, count in SAMPLES.items():
            if not op.supports_dtype(dtype, "cpu"):
                continue
            # Not op.sample_inputs, which walks the whole stack for every sample, to name the test that asked.
            samples = op.sample_inputs_func(op, "cpu", dtype, op.supports_autograd)
            for number, sample in zip(range(count), samples):
                with contextlib.suppress(*REFUSED), recorder:
                    out = op(sample.input, *sample.args, **sample.kwargs)
                    outputs = [o for o in tree_leaves(out) if isinstance(o, torch.Tensor) and o.requires_grad]
                    if outputs and number % BACKWARDS == 0:
                        torch.autograd.backward(outputs, [torch.randn_like(o) for o in outputs])


@lru_cache(maxsize=1)
def all_calls() -> dict[str, list[Call]]:
    """Calls by overload name, with hand-written ones last."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recorder = Recorder()
    try:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            record(recorder)
            calls = {name: list(forms.values()) for name, forms in recorder.calls.items() if forms}
            for name, more in hand_calls().items():
                calls.setdefault(name, []).extend(more)
    finally:
        torch.set_num_threads(threads)
    return calls
