"""``@pytest.mark.gradcheck(ignore=[...], expect=[...], order=2, devices=[...], skip="reason")``.

On a test, a class or a module; what several markers say of one test is added up, the nearest has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from gradcheck_suite.errors import ConfigurationError
from gradcheck_suite.wording import nearest

__all__ = ["Wishes", "wishes_of"]

_KNOWN = ("ignore", "expect", "order", "devices", "skip")


@dataclass(frozen=True)
class Wishes:
    """What the markers of one test ask for.

    Attributes:
        ignore: codes of the rules silenced in this test, by any of its markers.
        expect: what must be found in this test and fails nothing: by name as given, the codes that it means.
        order: up to which order the ``gradcheck`` fixture checks, or None where nothing is said.
        devices: on which it checks, or ().
        skip: why the test's gradients are not looked at, by the nearest marker that says so; "" if they are.
    """

    ignore: frozenset[str] = frozenset()
    expect: tuple[tuple[str, frozenset[str]], ...] = ()
    order: int | None = None
    devices: tuple[str, ...] = ()
    skip: str = ""

    @property
    def expected(self) -> frozenset[str]:
        """The codes of all that is expected."""
        return frozenset().union(*(codes for _, codes in self.expect))


def wishes_of(item: pytest.Item) -> Wishes:
    """Read the ``gradcheck`` markers of a test.

    Raises:
        pytest.UsageError: a marker has an argument or names a rule that there is not; the nearest are suggested.
    """
    wishes = Wishes()
    for mark in item.iter_markers("gradcheck"):  # the nearest first
        try:
            here = _read(mark)
        except ConfigurationError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from error
        wishes = Wishes(
            ignore=wishes.ignore | here.ignore,
            expect=(*wishes.expect, *here.expect),
            order=here.order if wishes.order is None else wishes.order,
            devices=wishes.devices or here.devices,
            skip=wishes.skip or here.skip,
        )
    return wishes


def _read(mark: pytest.Mark) -> Wishes:
    if mark.args:
        raise _refused(
            f"{mark.args[0]!r} is given by position", 'Name it: ignore=["GC502"] or skip="reason".'
        )
    for name in mark.kwargs:
        if name not in _KNOWN:
            suggestion = nearest(name, _KNOWN) or f"Known are {', '.join(_KNOWN)}."
            raise _refused(f"there is no argument {name!r}", suggestion)
    given = mark.kwargs
    skip = given.get("skip", "")
    if not isinstance(skip, str) or ("skip" in given and not skip.strip()):
        raise _refused(f"skip is {skip!r}", 'Say why, so that the summary can: skip="reason".')
    order = given.get("order")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int) or order < 1):
        raise _refused(
            f"order is {order!r}", "Write 1, or 2 for gradients of gradients too; more are possible."
        )
    expect = given.get("expect", ())
    # One text is refused with the words of resolve_names, not taken letter by letter.
    names = (expect,) if isinstance(expect, str) else tuple(expect)
    if isinstance(expect, str):
        _codes(expect, "expect")
    return Wishes(
        ignore=_codes(given["ignore"], "ignore") if given.get("ignore") else frozenset(),
        expect=tuple((str(name), _codes((name,), "expect")) for name in names),
        order=order,
        devices=_devices(given.get("devices", ())),
        skip=skip,
    )


def _codes(names: Any, argument: str) -> frozenset[str]:
    from gradcheck_suite.rules import resolve_names  # the rules are not needed by a test that names none

    return resolve_names(names, f"{argument} of @pytest.mark.gradcheck")


def _devices(devices: Any) -> tuple[str, ...]:
    from gradcheck_suite.config import check_devices

    if isinstance(devices, str) or not all(isinstance(device, str) for device in devices):
        raise _refused(f"devices is {devices!r}", 'Write a list: devices=["cpu", "cuda"].')
    return check_devices(tuple(devices), "devices of @pytest.mark.gradcheck")


def _refused(fact: str, advice: str) -> ConfigurationError:
    return ConfigurationError(f"reading @pytest.mark.gradcheck failed: {fact}. {advice}")
