"""Keeps ``torch.compile`` from tracing the recorder when it compiles a program that is being watched."""

from __future__ import annotations

from types import CodeType

__all__ = ["skip_by_dynamo"]


def skip_by_dynamo(*codes: CodeType, inside: bool = True) -> None:
    """Tell dynamo to run these functions, and what they call, as they are.

    ``torch._dynamo.disable`` would do the same and import dynamo, which takes seconds; this asks its C part only. A torch
    that does not offer it compiles correctly too, with warnings about recompilation.

    Args:
        codes: of the functions.
        inside: False to have what they call compiled as ever.
    """
    try:
        from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
    except ImportError:
        return
    strategy = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP if inside else _FrameAction.DEFAULT)
    for code in codes:
        set_code_exec_strategy(code, strategy)
