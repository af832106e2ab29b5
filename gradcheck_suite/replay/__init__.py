"""A trace run through the engine: node by node with torch's own values, and free-running from the leaves.

No torch here, and no judgement: what comes out is compared elsewhere.
"""

from __future__ import annotations

from .free import FreeRun, run_free
from .local import LocalDifference, LocalGradients, Unexplained, edge_groups, local_gradients
from .narrow import narrow_gradients

__all__ = [
    "FreeRun",
    "LocalDifference",
    "LocalGradients",
    "Unexplained",
    "edge_groups",
    "local_gradients",
    "narrow_gradients",
    "run_free",
]
