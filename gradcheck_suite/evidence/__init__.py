"""The nouns: what was recorded, what witnesses say of it, what follows, and the report.

Plain dataclasses that every layer shares. Nothing here computes a gradient, formats a page or names torch.
"""

from __future__ import annotations

from .finding import CodeExcerpt, Finding, Location, RelatedLocation, Severity
from .report import (
    SCHEMA_VERSION,
    GradientVerdict,
    GraphEdge,
    GraphNode,
    NodeVerdict,
    Report,
    Supplement,
    Unverified,
    register_format,
)
from .trace import (
    Array,
    ArraySource,
    ArrayValue,
    Edge,
    FunctionCall,
    NodeRecord,
    OpRecord,
    Root,
    TensorRef,
    Trace,
)
from .verdict import Comparison, Outcome, Testimony

__all__ = [
    "SCHEMA_VERSION",
    "Array",
    "ArraySource",
    "ArrayValue",
    "CodeExcerpt",
    "Comparison",
    "Edge",
    "Finding",
    "FunctionCall",
    "GradientVerdict",
    "GraphEdge",
    "GraphNode",
    "Location",
    "NodeRecord",
    "NodeVerdict",
    "OpRecord",
    "Outcome",
    "RelatedLocation",
    "Report",
    "Root",
    "Severity",
    "Supplement",
    "TensorRef",
    "Testimony",
    "Trace",
    "Unverified",
    "register_format",
]
