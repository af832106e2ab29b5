"""Which overloads an installation need not have: another package registers them, or a newer torch brings them.

Importing this module registers those of the packages that are installed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from .calls import overload_of

NEWEST = (2, 15)
"""The torch whose overloads the meanings were written for: from it on, one that is missing is a mistake."""

REGISTERED_BY = {"torch_nn": "torch.nn.modules.linear_cross_entropy", "torchvision": "torchvision"}
"""Modules that register the operations of a namespace."""

CHANGED = {"aten::_cdist_backward", "aten::_fused_rms_norm", "aten::_grouped_mm", "aten::_pdist_backward"}
"""Overloads that older versions have too, but with other parameters or names of them, or not on the CPU."""

for _module in REGISTERED_BY.values():
    if find_spec(_module) is not None:
        import_module(_module)


def is_older(version: str = torch.__version__) -> bool:
    """Whether a torch is older than the one that the meanings were written for."""
    return tuple(int(part) for part in version.split(".")[:2]) < NEWEST


def exists(name: str) -> bool:
    """Whether this torch has the overload."""
    try:
        overload_of(name)
    except AttributeError:
        return False
    return True


def excuse(name: str, version: str = torch.__version__) -> str | None:
    """Why an overload may be missing here; None when it is there, or has to be."""
    older = is_older(version)
    if exists(name):
        return f"{name} has another form in torch {version}" if older and name in CHANGED else None
    module = REGISTERED_BY.get(name.partition("::")[0], "torch")
    package = module.partition(".")[0]
    if package != "torch":
        return f"{name} needs {package}, which is not installed" if find_spec(package) is None else None
    return f"{name} is not in torch {version}" if older else None


def present_overload(name: str) -> Any:
    """The overload; skips the test where it is excused, and fails where it has to be there."""
    reason = excuse(name)
    if reason is not None:
        pytest.skip(reason)
    return overload_of(name)
