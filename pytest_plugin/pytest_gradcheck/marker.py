"""``@pytest.mark.gradcheck(ignore=[...], skip="reason")``, on a test, a class or a module."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.wording import nearest

__all__ = ["Wishes", "wishes_of"]

_KNOWN = ("ignore", "skip")


@dataclass(frozen=True)
class Wishes:
    """What the markers of one test ask for.

    Attributes:
        ignore: codes of the rules silenced in this test, by any of its markers.
        skip: why its gradients are not looked at, by the nearest marker that says so; "" if they are.
    """

    ignore: frozenset[str] = frozenset()
    skip: str = ""


def wishes_of(item: pytest.Item) -> Wishes:
    """Read the ``gradcheck`` markers of a test.

    Raises:
        pytest.UsageError: a marker has an argument or names a rule that there is not; the nearest are suggested.
    """
    wishes = Wishes()
    for mark in item.iter_markers("gradcheck"):
        try:
            here = _read(mark)
        except ConfigurationError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
        wishes = Wishes(wishes.ignore | here.ignore, wishes.skip or here.skip)
    return wishes


def _read(mark: pytest.Mark) -> Wishes:
    if mark.args:
        raise _refused(
            f"{mark.args[0]!r} is given by position", 'Name it: ignore=["GC502"] or skip="reason".'
        )
    for name in mark.kwargs:
        if name not in _KNOWN:
            suggestion = nearest(name, _KNOWN) or f"Known are {' and '.join(_KNOWN)}."
            raise _refused(f"there is no argument {name!r}", suggestion)
    skip = mark.kwargs.get("skip", "")
    if not isinstance(skip, str) or ("skip" in mark.kwargs and not skip.strip()):
        raise _refused(f"skip is {skip!r}", 'Say why, so that the summary can: skip="reason".')
    names = mark.kwargs.get("ignore", ())
    if not names:
        return Wishes(skip=skip)
    from gradcheck_suite.rules import resolve_names

    return Wishes(resolve_names(names, "ignore of @pytest.mark.gradcheck"), skip)


def _refused(fact: str, advice: str) -> ConfigurationError:
    return ConfigurationError(f"reading @pytest.mark.gradcheck failed: {fact}. {advice}")
