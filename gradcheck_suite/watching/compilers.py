"""What becomes of compiled functions while a session is open.

``torch.compile`` compiles nothing while a dispatch mode is active: each function runs as it is written, except that
``fullgraph=True`` then raises. So compiled functions are told to run as they are written, which is also what can be
verified.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

__all__ = ["run_as_written"]


def run_as_written() -> Callable[[], None]:
    """Let compiled functions run as they are written from now on; a stance that the program has chosen stays.

    Returns:
        What ends it. Where dynamo is not imported nothing can be compiled yet, and nothing is done.
    """
    frames = sys.modules.get("torch._dynamo.eval_frame")
    if frames is None or getattr(getattr(frames, "_stance", None), "stance", "") != "default":
        return lambda: None
    before = frames._stance
    torch.compiler.set_stance("force_eager")
    ours = frames._stance

    def undo() -> None:
        if frames._stance is ours:
            frames._set_stance(before)

    return undo
