"""The project's own family of exceptions.

Every error message follows one form: ``<attempt> failed: <fact with values>. <why>. <do this>.``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evidence import Report

__all__ = [
    "CaptureError",
    "ConfigurationError",
    "GradcheckError",
    "GradientError",
    "InputError",
    "ModelError",
    "NothingToVerifyError",
    "TargetError",
]


class GradcheckError(Exception):
    """Base of every error that gradcheck_suite raises on purpose."""


class InputError(GradcheckError, ValueError):
    """The inputs of a check cannot be used as given (NaN, wrong device, cannot be inferred, ...)."""


class ModelError(GradcheckError, RuntimeError):
    """The model or the loss raised, or is not something that can be called."""


class NothingToVerifyError(GradcheckError, ValueError):
    """There is no gradient to verify: no differentiable output, or nothing requires grad."""


class CaptureError(GradcheckError, RuntimeError):
    """The recorder could not observe what it was asked to observe."""


class TargetError(GradcheckError, ValueError):
    """A command-line target (``pkg.module:Model``, ``file.py:fn``, ``torchvision:NAME``) cannot be resolved."""


class ConfigurationError(GradcheckError, ValueError):
    """A setting (argument, ``[tool.gradcheck]``, command-line option) has a value that is not understood."""


class GradientError(GradcheckError, AssertionError):
    """A check found at least one error-level finding; carries the report.

    Attributes:
        report: the :class:`~gradcheck_suite.Report` whose findings raised it.
    """

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report
