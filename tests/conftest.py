"""For all tests: pytest's own fixture for running pytest on a made-up project."""

from __future__ import annotations

pytest_plugins = ["pytester"]
