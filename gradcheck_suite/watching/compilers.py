"""What becomes of compiled functions while a session is open.

``torch.compile`` compiles nothing while a dispatch mode is active: each function runs as it is written, except that
``fullgraph=True`` then raises. So compiled functions are told to run as they are written, which is also what can be
verified. What records a program as a graph (``torch.export``, ``make_fx``, the branches of ``torch.cond``) would record what a
session does in it as well, and does not work where compiling is off: it runs as it does where nobody watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.modules.module as _modules

__all__ = ["as_usual", "is_traced", "loaded_graph_makers", "run_as_written"]

_GRAPH_MAKERS: tuple[tuple[str, str], ...] = (
    ("torch.fx.experimental.proxy_tensor", "dispatch_trace"),
    ("torch.export", "export"),
    ("torch.export._trace", "_export"),
    ("torch._dynamo", "export"),
    ("torch._dynamo", "explain"),
    ("torch", "cond"),
    ("torch._higher_order_ops.cond", "cond"),
)
_KEYS = tuple(
    getattr(torch._C._TorchDispatchModeKey, name)
    for name in ("FAKE", "PROXY", "FUNCTIONAL")
    if hasattr(torch._C._TorchDispatchModeKey, name)
)


def loaded_graph_makers() -> Iterator[tuple[Any, str]]:
    """Module and name of each function that records programs as graphs, of those that somebody has imported."""
    for module_name, name in _GRAPH_MAKERS:
        module = sys.modules.get(module_name)
        if module is not None and hasattr(module, name):
            yield module, name


def is_traced() -> bool:
    """Whether a graph is being made of what runs, or it runs on tensors without data."""
    return any(torch._C._get_dispatch_mode(key) is not None for key in _KEYS)


@contextmanager
def as_usual() -> Iterator[None]:
    """While it lasts, compiled functions are compiled, as they are without :func:`run_as_written`, and modules unhooked.

    Dynamo refuses to export a module while there are hooks for all modules.
    """
    taken = [
        (hooks, {number: hook for number, hook in hooks.items() if _is_ours(hook)})
        for hooks in (_modules._global_forward_pre_hooks, _modules._global_forward_hooks)
    ]
    frames = sys.modules.get("torch._dynamo.eval_frame")
    stance: Any = getattr(frames, "_stance", None)
    for hooks, own in taken:
        for number in own:
            del hooks[number]
    if frames is not None and stance in _ours:
        frames._set_stance(type(stance)())
    try:
        yield
    finally:
        if frames is not None and stance in _ours:
            frames._set_stance(stance)
        for hooks, own in taken:
            others = dict(hooks)
            hooks.clear()
            hooks.update(sorted({**others, **own}.items()))


def _is_ours(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith(__name__.partition(".")[0] + ".")


_ours: list[Any] = []  # the stances that are in effect because of a session


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
    _ours.append(ours)

    def undo() -> None:
        _ours.remove(ours)
        if frames._stance is ours:
            frames._set_stance(before)

    return undo
