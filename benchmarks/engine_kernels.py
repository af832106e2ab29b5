"""How fast the engine's kernels are, value and VJP together, next to torch's float64 CPU kernels.

    python -m benchmarks.engine_kernels [--quick] [--threads N] [--only NAME]

One row per operation and shape: milliseconds for forward plus backward with every gradient, medians of runs in
which the two libraries take turns, and the ratio. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from gradcheck_suite.engine import Tensor, grad, ops

Run = Callable[[], None]


class Case(NamedTuple):
    """One operation at one shape, in both libraries; float arrays among the inputs get gradients."""

    name: str
    shape: str
    inputs: tuple[np.ndarray[Any, Any], ...]
    engine: Callable[..., Any]
    torch: Callable[..., Any]
    quick: bool = False


def convolution(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    rng: np.random.Generator,
    quick: bool = False,
    **geometry: int,
) -> Case:
    """A two-dimensional convolution."""
    conv2d: Any = F.conv2d  # its overloads cannot be called with a dictionary
    text = f"{'x'.join(map(str, shape))} * {'x'.join(map(str, weight))} " + " ".join(
        f"{key}={value}" for key, value in geometry.items()
    )
    return Case(
        "convolution",
        text.strip(),
        (rng.standard_normal(shape), rng.standard_normal(weight)),
        lambda x, w: ops.convolution(x, w, **geometry),
        lambda x, w: conv2d(x, w, **geometry),
        quick,
    )


def cases() -> list[Case]:
    """Shapes of ResNet-18, MobileNet, ViT and BERT with batches of 8."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal
    image, tokens, width = normal((8, 64, 56, 56)), normal((8, 128, 768)), normal(768)
    channels = normal(64)
    heads = [normal((8, 12, 128, 64)) for _ in range(3)]
    words = rng.integers(0, 30000, (8, 128))
    return [
        convolution((8, 3, 224, 224), (64, 3, 7, 7), rng, stride=2, padding=3),
        convolution((8, 64, 56, 56), (64, 64, 3, 3), rng, padding=1),
        convolution((8, 64, 28, 28), (64, 64, 3, 3), rng, quick=True, padding=1),
        convolution((8, 128, 28, 28), (256, 128, 3, 3), rng, stride=2, padding=1),
        convolution((8, 512, 7, 7), (512, 512, 3, 3), rng, padding=1),
        convolution((8, 64, 56, 56), (256, 64, 1, 1), rng, quick=True),
        convolution((8, 64, 56, 56), (128, 64, 1, 1), rng, stride=2),
        convolution((8, 96, 56, 56), (96, 1, 3, 3), rng, quick=True, padding=1, groups=96),
        convolution((8, 96, 56, 56), (96, 1, 3, 3), rng, stride=2, padding=1, groups=96),
        convolution((8, 384, 14, 14), (384, 1, 3, 3), rng, padding=1, groups=384),
        convolution((8, 128, 28, 28), (128, 4, 3, 3), rng, padding=1, groups=32),
        convolution((8, 3, 224, 224), (192, 3, 16, 16), rng, stride=16),
        Case(
            "matmul",
            "1024x768 @ 768x3072",
            (normal((1024, 768)), normal((768, 3072))),
            lambda a, b: ops.matmul(a, b),
            torch.matmul,
            True,
        ),
        Case(
            "layer norm",
            "8x128x768",
            (tokens, width, width),
            lambda x, w, b: ops.layer_norm(x, w, b),
            lambda x, w, b: F.layer_norm(x, (768,), w, b),
            True,
        ),
        Case(
            "batch norm",
            "8x64x56x56",
            (image, channels, channels),
            lambda x, w, b: ops.batch_norm(x, w, b),
            lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
            True,
        ),
        Case(
            "group norm",
            "8x64x56x56 groups=8",
            (image, channels, channels),
            lambda x, w, b: ops.group_norm(x, 8, w, b),
            lambda x, w, b: F.group_norm(x, 8, w, b),
        ),
        Case(
            "rms norm",
            "8x128x768",
            (tokens, width),
            lambda x, w: ops.rms_norm(x, w),
            lambda x, w: F.rms_norm(x, (768,), w, 1e-6),
        ),
        Case(
            "softmax",
            "96x128x128",
            (normal((96, 128, 128)),),
            lambda x: ops.softmax(x),
            lambda x: F.softmax(x, -1),
            True,
        ),
        Case(
            "log softmax",
            "256x30000",
            (normal((256, 30000)),),
            lambda x: ops.log_softmax(x),
            lambda x: F.log_softmax(x, -1),
        ),
        Case(
            "attention",
            "8x12x128x64",
            tuple(heads),
            lambda q, k, v: ops.attention(q, k, v),
            F.scaled_dot_product_attention,
            True,
        ),
        Case(
            "attention",
            "8x12x128x64 causal",
            tuple(heads),
            lambda q, k, v: ops.attention(q, k, v, causal=True),
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        ),
        Case(
            "embedding",
            "30000x768, 1024 words",
            (words, normal((30000, 768))),
            lambda index, weight: ops.embedding(weight, index=index),
            lambda index, weight: F.embedding(index, weight),
            True,
        ),
        Case(
            "max pool",
            "8x64x112x112 3x3 stride=2",
            (normal((8, 64, 112, 112)),),
            lambda x: ops.max_pool(x, kernel=3, stride=2, padding=1)[0],
            lambda x: F.max_pool2d(x, 3, 2, 1),
            True,
        ),
        Case(
            "average pool",
            "8x512x7x7 to 1x1",
            (normal((8, 512, 7, 7)),),
            lambda x: ops.adaptive_avg_pool(x, output_size=1),
            lambda x: F.adaptive_avg_pool2d(x, 1),
        ),
        Case(
            "bilinear upsampling",
            "8x64x56x56 to 112x112",
            (image,),
            lambda x: ops.interpolate(x, size=(112, 112), mode="linear"),
            lambda x: F.interpolate(x, size=(112, 112), mode="bilinear"),
        ),
    ]


def engine_run(case: Case) -> Run:
    """Forward and backward in the engine."""
    arguments = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in case.inputs]
    cotangent = Tensor(np.random.default_rng(1).standard_normal(case.engine(*arguments).shape))

    wanted = [a for a in arguments if isinstance(a, Tensor)]

    def run() -> None:
        grad(case.engine(*arguments), wanted, cotangents=cotangent)

    return run


def torch_run(case: Case) -> Run:
    """The same in torch, with double precision."""
    arguments = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in case.inputs]
    cotangent = torch.randn(case.torch(*arguments).shape, dtype=torch.float64)

    wanted = [a for a in arguments if a.requires_grad]

    def run() -> None:
        torch.autograd.grad(case.torch(*arguments), wanted, cotangent)

    return run


def milliseconds(runs: tuple[Run, Run], budget: float, clock: Callable[[], float]) -> tuple[float, float]:
    """Medians of runs that take turns until ``budget`` seconds are spent, at least five each after warming up.

    Taking turns lets whatever else the machine does fall on both alike.
    """
    for run in runs:
        run()
    took: tuple[list[float], list[float]] = ([], [])
    begun = time.perf_counter()
    while len(took[0]) < 5 or time.perf_counter() - begun < budget:
        for run, times in zip(runs, took):
            start = clock()
            run()
            times.append(clock() - start)
    return statistics.median(took[0]) * 1e3, statistics.median(took[1]) * 1e3


def restart_with_threads(threads: int) -> None:
    """Start this program again with the number of threads in the environment, where NumPy's BLAS reads it."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    if any(os.environ.get(name) != str(threads) for name in names):
        os.environ.update(dict.fromkeys(names, str(threads)))
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.engine_kernels", *sys.argv[1:]])


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes, under a minute on two cores")
    parser.add_argument("--threads", type=int, default=1, help="threads of both libraries")
    parser.add_argument("--only", default="", help="only the rows whose operation and shape contain this")
    options = parser.parse_args()
    restart_with_threads(options.threads)
    torch.set_num_threads(options.threads)
    # Processor time forgets the waiting for other programs, but counts every thread.
    clock = time.process_time if options.threads == 1 else time.perf_counter
    budget = 1.0 if options.quick else 3.0
    rows: list[dict[str, Any]] = []
    print(f"{'operation':<20} {'shape':<46} {'engine ms':>10} {'torch ms':>10} {'ratio':>6}")
    for case in cases():
        if (options.quick and not case.quick) or options.only not in f"{case.name} {case.shape}":
            continue
        mine, theirs = milliseconds((engine_run(case), torch_run(case)), budget, clock)
        rows.append(
            {
                "operation": case.name,
                "shape": case.shape,
                "engine_ms": round(mine, 3),
                "torch_ms": round(theirs, 3),
                "ratio": round(mine / theirs, 3),
            }
        )
        print(
            f"{case.name:<20} {case.shape:<46} {mine:>10.2f} {theirs:>10.2f} {mine / theirs:>6.2f}",
            flush=True,
        )
    if not rows:
        parser.error(f"--only {options.only!r} leaves no row. Name a part of an operation or of its shape.")
    geometric = statistics.geometric_mean(row["ratio"] for row in rows)
    worst = max(rows, key=lambda row: row["ratio"])
    print(
        f"engine / torch: geometric mean {geometric:.2f}, worst {worst['ratio']:.2f} ({worst['operation']})"
    )
    print(
        json.dumps(
            {
                "benchmark": "engine_kernels",
                "threads": options.threads,
                "geometric_mean_ratio": round(geometric, 3),
                "worst_ratio": worst["ratio"],
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
