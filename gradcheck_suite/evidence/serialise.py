"""Reports as JSON-compatible data and back, exactly.

Driven by the dataclasses' own annotations, so that a new field needs no edit here. JSON lacks a few values; where
the annotation says what to expect they are written plainly (``"nan"`` in a float field, a list for a tuple), and
inside free-form evidence they carry a tag (``{"$float": "nan"}``), so that the text "nan" stays a text.
"""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np

from .report import SCHEMA_VERSION, Report

__all__ = ["report_from_dict", "report_to_dict"]

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_TAGS = ("$float", "$complex", "$tuple", "$dict")


def report_to_dict(report: Report) -> dict[str, Any]:
    """The report as data that ``json.dumps(..., allow_nan=False)`` accepts.

    Besides the fields it holds ``schema_version`` and, for readers in other languages, the derived ``ok``.

    Raises:
        ValueError: a field holds something that its annotation does not allow; the path to it is named.
    """
    body = _encode_dataclass(report, "report")
    return {"schema_version": SCHEMA_VERSION, "ok": report.ok, **body}


def report_from_dict(data: Mapping[str, Any]) -> Report:
    """Rebuild a report; the inverse of :func:`report_to_dict`.

    Fields that have a default may be missing, so that reports of an earlier release stay readable.

    Raises:
        ValueError: not a report, an unknown schema version, or a field that is missing, unknown or of the wrong
            kind; the path to it is named.
    """
    if not isinstance(data, Mapping):
        raise ValueError(
            f"reading a report failed: expected a JSON object, got {type(data).__name__}. "
            "Pass the whole content of a file written by report.save('....json')."
        )
    if "schema_version" not in data:
        raise ValueError(
            "reading a report failed: there is no 'schema_version'. "
            "This is not a file written by report.save('....json')."
        )
    version = data["schema_version"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise ValueError(
            f"reading a report failed: its schema version is {version!r}, this release reads {SCHEMA_VERSION}. "
            "Write the report again with the installed release, or install the one that wrote it."
        )
    body = {key: value for key, value in data.items() if key not in ("schema_version", "ok")}
    report = _decode_dataclass(Report, body, "report")
    assert isinstance(report, Report)
    return report


# ------------------------------------------------------------------------------------------------ annotations


@cache
def _schema(cls: type) -> tuple[tuple[Field[Any], Any], ...]:
    """The fields of a dataclass with their annotations resolved."""
    hints = typing.get_type_hints(cls)
    return tuple((item, hints[item.name]) for item in fields(cls))


def _wrong(path: str, expected: str, value: object) -> ValueError:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return ValueError(
        f"converting a report failed: {path} should be {expected}, it is {shown} ({type(value).__name__})."
    )


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


# ------------------------------------------------------------------------------------------------ writing


def _encode_dataclass(value: Any, path: str) -> dict[str, Any]:
    cls: type = type(value)
    return {
        item.name: _encode(getattr(value, item.name), hint, f"{path}.{item.name}")
        for item, hint in _schema(cls)
    }


def _encode(value: Any, annotation: Any, path: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if annotation is Any:
        return _encode_free(value, path)
    if _is_union(annotation):
        return _encode(value, _choose(value, annotation, path), path)
    if annotation is type(None):
        return None
    origin = typing.get_origin(annotation)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise _wrong(path, "a tuple", value)
        kinds = _element_kinds(annotation, len(value), path)
        return [_encode(entry, kind, f"{path}[{i}]") for i, (entry, kind) in enumerate(zip(value, kinds))]
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, "a mapping", value)
        kind = typing.get_args(annotation)[1]
        return {
            _text_key(key, path): _encode(entry, kind, f"{path}[{key!r}]") for key, entry in value.items()
        }
    if is_dataclass(annotation):
        if type(value) is not annotation:
            raise _wrong(path, _name(annotation), value)
        return _encode_dataclass(value, path)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        if not isinstance(value, annotation):
            raise _wrong(path, _name(annotation), value)
        return value.name.lower()
    if not _is_a(value, annotation):
        raise _wrong(path, _name(annotation), value)
    return _encode_number(value)


def _choose(value: Any, annotation: Any, path: str) -> Any:
    """The member of a union that ``value`` belongs to; ``complex | float`` sends a float to float."""
    members = typing.get_args(annotation)
    if value is None and type(None) in members:
        return type(None)
    exact = [m for m in members if isinstance(typing.get_origin(m) or m, type) and type(value) is m]
    loose = [m for m in members if m is not type(None) and _may_be(value, m)]
    if not exact and not loose:
        raise _wrong(path, " or ".join(_name(m) for m in members), value)
    return (exact or loose)[0]


def _may_be(value: Any, annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    if origin is not None:
        return isinstance(value, origin)
    if annotation in (float, int, complex, bool, str):
        return _is_a(value, annotation)
    return isinstance(annotation, type) and isinstance(value, annotation)


def _is_a(value: Any, annotation: Any) -> bool:
    if annotation is float:
        return isinstance(value, (float, int)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(annotation, type) and isinstance(value, annotation)


def _encode_number(value: Any) -> Any:
    if isinstance(value, complex):
        return {"real": _encode_number(value.real), "imag": _encode_number(value.imag)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _encode_free(value: Any, path: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, complex):
        return {"$complex": [_encode_number(value.real), _encode_number(value.imag)]}
    if isinstance(value, (list, tuple)):
        entries = [_encode_free(entry, f"{path}[{i}]") for i, entry in enumerate(value)]
        return entries if isinstance(value, list) else {"$tuple": entries}
    if isinstance(value, Mapping):
        entries_by_key = {_text_key(k, path): _encode_free(v, f"{path}[{k!r}]") for k, v in value.items()}
        tagged = any(key in _TAGS for key in entries_by_key)
        return {"$dict": list(map(list, entries_by_key.items()))} if tagged else entries_by_key
    raise _wrong(path, "a JSON value (None, bool, number, text, list, tuple or mapping)", value)


def _text_key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise _wrong(f"a key of {path}", "a text", key)
    return key


# ------------------------------------------------------------------------------------------------ reading


def _decode_dataclass(cls: type, data: Any, path: str) -> Any:
    if not isinstance(data, Mapping):
        raise _wrong(path, f"an object with the fields of {cls.__name__}", data)
    schema = _schema(cls)
    known = {item.name for item, _ in schema}
    unknown = sorted(set(map(str, data)) - known)
    if unknown:
        raise ValueError(
            f"reading a report failed: {path} has the unknown field {unknown[0]!r}. "
            f"{cls.__name__} has {', '.join(sorted(known))}."
        )
    arguments: dict[str, Any] = {}
    for item, hint in schema:
        if item.name in data:
            arguments[item.name] = _decode(data[item.name], hint, f"{path}.{item.name}")
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(
                f"reading a report failed: {path} lacks the field {item.name!r}. "
                "The file is incomplete; write the report again."
            )
    return cls(**arguments)


def _decode(data: Any, annotation: Any, path: str) -> Any:
    if annotation is Any:
        return _decode_free(data, path)
    if _is_union(annotation):
        return _decode_union(data, annotation, path)
    origin = typing.get_origin(annotation)
    if origin is tuple:
        if not isinstance(data, list):
            raise _wrong(path, "a list", data)
        kinds = _element_kinds(annotation, len(data), path)
        return tuple(_decode(entry, kind, f"{path}[{i}]") for i, (entry, kind) in enumerate(zip(data, kinds)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise _wrong(path, "an object", data)
        kind = typing.get_args(annotation)[1]
        return {str(key): _decode(entry, kind, f"{path}[{key!r}]") for key, entry in data.items()}
    if is_dataclass(annotation):
        assert isinstance(annotation, type)
        return _decode_dataclass(annotation, data, path)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        members = {member.name.lower(): member for member in annotation}
        if not isinstance(data, str) or data not in members:
            raise _wrong(path, f"one of {', '.join(members)}", data)
        return members[data]
    if annotation is complex:
        if not isinstance(data, Mapping) or set(data) != {"real", "imag"}:
            raise _wrong(path, "an object with real and imag", data)
        return complex(
            _decode(data["real"], float, f"{path}.real"), _decode(data["imag"], float, f"{path}.imag")
        )
    if annotation is float and isinstance(data, str) and data in _NON_FINITE:
        return _NON_FINITE[data]
    if not _is_a(data, annotation):
        raise _wrong(path, _name(annotation), data)
    return data


def _decode_union(data: Any, annotation: Any, path: str) -> Any:
    members = typing.get_args(annotation)
    if data is None and type(None) in members:
        return None
    reasons = []
    for member in members:
        if member is type(None):
            continue
        try:
            return _decode(data, member, path)
        except ValueError as error:
            reasons.append(error)
    if len(reasons) == 1:  # X | None: the reason why it is not an X is the reason
        raise reasons[0]
    raise _wrong(path, " or ".join(_name(m) for m in members), data)


def _decode_free(data: Any, path: str) -> Any:
    if isinstance(data, list):
        return [_decode_free(entry, f"{path}[{i}]") for i, entry in enumerate(data)]
    if not isinstance(data, Mapping):
        return data
    tags = [tag for tag in _TAGS if tag in data]
    if not tags:
        return {str(key): _decode_free(entry, f"{path}[{key!r}]") for key, entry in data.items()}
    tag, content = tags[0], data[tags[0]]
    if len(data) != 1:
        raise _wrong(path, f"an object whose only key is {tag!r}", data)
    if tag == "$float" and isinstance(content, str) and content in _NON_FINITE:
        return _NON_FINITE[content]
    if tag == "$complex" and isinstance(content, list) and len(content) == 2:
        return complex(*(_decode(part, float, path) for part in content))
    if tag == "$tuple" and isinstance(content, list):
        return tuple(_decode_free(entry, f"{path}[{i}]") for i, entry in enumerate(content))
    if tag == "$dict" and isinstance(content, list) and all(map(_is_pair, content)):
        return {str(key): _decode_free(entry, f"{path}[{key!r}]") for key, entry in content}
    raise _wrong(path, f"a well-formed {tag} value", data)


def _is_pair(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2


def _element_kinds(annotation: Any, length: int, path: str) -> Iterable[Any]:
    kinds = typing.get_args(annotation)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return (kinds[0],) * length
    if len(kinds) != length:
        raise ValueError(
            f"converting a report failed: {path} should have {len(kinds)} entries, it has {length}."
        )
    return kinds
