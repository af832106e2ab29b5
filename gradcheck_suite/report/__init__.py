"""Output formats: facts (:class:`Report`) -> view data (:mod:`.view`) -> pixels, text or JSON.

All wording and rounding lives in ``view``; a format only arranges. A new format is one module here with a
``FORMATS`` mapping of file suffix to writer; importing this package registers them all.
"""

from __future__ import annotations

import importlib
import pkgutil

from ..evidence import Report, register_format

__all__ = ["Report", "formats"]


def formats() -> dict[str, str]:
    """The known file suffixes and the module that writes each."""
    return dict(_FOUND)


def _discover() -> dict[str, str]:
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        for suffix, writer in getattr(loaded, "FORMATS", {}).items():
            register_format(suffix, writer)
            found[suffix] = loaded.__name__
    return found


_FOUND = _discover()
