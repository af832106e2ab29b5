"""``watch()``: looks at running code, changes nothing of it, and verifies every backward that runs inside.

The session and its ledger live here; what a backward's nodes should have returned is the witnesses' business.
"""

from __future__ import annotations

from .ledger import Ledger
from .session import Session, watch

__all__ = ["Ledger", "Session", "watch"]
