"""The parameters of every meaning are those of torch's schema: names, order, keywords, defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gradcheck_suite.aten import Meaning, known_names, lookup

from .calls import overload_of
from .presence import excuse, present_overload


def plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def mismatches(meaning: Meaning, schema: Any) -> Iterator[str]:
    """How the function's parameters differ from the schema's; ``out`` arguments are not parameters."""
    parameters = [p for p in inspect.signature(meaning.function).parameters.values() if p.name != "recorded"]
    expected = [a for a in schema.arguments if not a.is_out]
    if [p.name for p in parameters] != [a.name for a in expected]:
        yield f"{meaning.name}: ({', '.join(p.name for p in parameters)}) but the schema is {schema}"
        return
    for parameter, argument in zip(parameters, expected):
        if (parameter.kind is parameter.KEYWORD_ONLY) != argument.kwarg_only:
            yield f"{meaning.name}: {parameter.name} is {parameter.kind.description} in {schema}"
        if argument.has_default_value():
            default = plain(argument.default_value)
            given = plain(parameter.default)
            same = given == default or (isinstance(default, tuple) and set(default) == {given})
            if isinstance(default, float) and isinstance(given, float):
                same = abs(given - default) <= 1e-12
            if not same:
                yield f"{meaning.name}: {parameter.name}={given!r}, the schema has {default!r}"


def written_names(schema: Any) -> list[str]:
    return [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]


@pytest.mark.parametrize("name", known_names())
def test_parameters_are_those_of_the_schema(name: str) -> None:
    meaning = lookup(name)
    assert meaning is not None
    assert not list(mismatches(meaning, present_overload(name)._schema))


def derived_overloads() -> list[tuple[str, Meaning]]:
    """Every overload that torch has and that is derived from another one's meaning."""
    found = []
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        if not name.startswith("aten::"):
            continue
        meaning = lookup(name)
        if meaning is not None and meaning.base != name and excuse(meaning.base) is None:
            found.append((name, meaning))
    return found


def test_derived_overloads_have_the_parameters_of_their_base() -> None:
    derived = derived_overloads()
    assert len(derived) > 300
    problems = []
    for name, meaning in derived:
        # Packets of pure Python operations (aten::add.t_ and the like) have no dispatcher entry.
        schema = torch._C._get_schema(*name.partition(".")[::2])
        parameters = [
            p for p in inspect.signature(meaning.function).parameters.values() if p.name != "recorded"
        ]
        expected = [a.name for a in schema.arguments if not a.is_out]
        # An out= overload has no dtype and device of its own: what it lacks must be optional.
        extra = [p for p in parameters if p.name not in expected]
        given = [p.name for p in parameters if p.name in expected]
        if given != expected or any(p.default is p.empty for p in extra):
            problems.append(f"{name} from {meaning.base}: {parameters} but the schema is {schema}")
    assert not problems


def test_modes_are_those_of_the_schema() -> None:
    problems = []
    for name, meaning in derived_overloads():
        schema = torch._C._get_schema(*name.partition(".")[::2])
        outs = [a.name for a in schema.arguments if a.is_out]
        mode = "out" if outs else "inplace" if "self" in written_names(schema) else "functional"
        if meaning.mode != mode:
            problems.append(f"{name} is {meaning.mode}, the schema says {mode}: {schema}")
    assert not problems


def lie(function: Any, name: str = "aten::addmm") -> list[str]:
    meaning = Meaning(name, function, "functional", False, "lies", "here:1", name)
    return list(mismatches(meaning, overload_of(name)._schema))


def test_the_comparison_can_fail() -> None:
    assert not lie(lambda self, mat1, mat2, *, beta=1, alpha=1: None)
    assert lie(lambda self, mat2, mat1, *, beta=1, alpha=1: None)  # order
    assert lie(lambda self, mat1, mat2, *, beta=1: None)  # a parameter is missing
    assert lie(lambda self, mat1, mat2, beta=1, alpha=1: None)  # not keyword-only
    assert lie(lambda self, mat1, mat2, *, beta=1, alpha=0: None)  # another default
    assert lie(lambda self, mat1, mat2, *, beta=1, alpha: None)  # no default
    assert lie(lambda bias, mat1, mat2, *, beta=1, alpha=1: None)  # another name
