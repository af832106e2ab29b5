"""Know that a gradient is right: verify gradients and debug autograd for PyTorch.

The public names are loaded on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .declare import surrogate_gradient
    from .errors import GradientError
    from .evidence import Finding, Report, Severity
    from .pipeline import check_gradients
    from .rules import explain
    from .watching import watch

__all__ = [
    "Finding",
    "GradientError",
    "Report",
    "Severity",
    "__version__",
    "check_gradients",
    "explain",
    "surrogate_gradient",
    "watch",
]

# A lazily exported name must not equal a submodule's name: importing the submodule would rebind it.
_HOMES = {
    "Finding": "evidence",
    "GradientError": "errors",
    "Report": "report",
    "Severity": "evidence",
    "check_gradients": "pipeline",
    "explain": "rules",
    "surrogate_gradient": "declare",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
