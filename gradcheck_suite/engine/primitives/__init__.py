"""The operations of the engine, one module per subject; each is imported by discovery.

A module here registers `@primitive` entries (value, VJP, JVP, sampler) and `@derived` functions that are
composed of them. To add an operation, write its entry in the module of its subject, or a new module:
nothing else has to be edited, and the tests are generated from the entry. The algorithm (tape,
tensors, modes) does not live here, and nothing here knows torch.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules


def discover() -> list[str]:
    """Import every module of this package; returns their names."""
    names = sorted(module.name for module in iter_modules(__path__))
    for name in names:
        import_module(f"{__name__}.{name}")
    return names
