"""Errors of the engine. All are `EngineError`, itself a `RuntimeError`, as torch's autograd errors are."""

from __future__ import annotations


class EngineError(RuntimeError):
    """A differentiation that cannot be done, with the values that make it impossible."""


class GraphFreedError(EngineError):
    """A backward reached a node whose saved values an earlier backward has already freed."""


class InplaceError(EngineError):
    """A value that a node saved for its backward was overwritten before the backward ran."""


class NotDifferentiableError(EngineError):
    """A gradient was asked of an argument for which the primitive declares no derivative."""
