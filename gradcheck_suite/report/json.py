"""The report as JSON: the facts, unrounded, readable again by ``Report.from_dict``."""

from __future__ import annotations

import json

from ..evidence import Report

__all__ = ["FORMATS", "write_json"]


def write_json(report: Report) -> str:
    """The text of a ``.json`` file; strictly JSON (no bare NaN), UTF-8, one field per line."""
    return json.dumps(report.to_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


FORMATS = {".json": write_json}
