"""Source lines around a location, taken when a finding is made: later the file may be gone or changed."""

from __future__ import annotations

import linecache
from dataclasses import replace

from ..evidence import CodeExcerpt, Location

__all__ = ["definition", "excerpt", "excerpts_of", "source_line"]


def excerpt(location: Location, around: int = 3) -> CodeExcerpt | None:
    """The line of ``location`` with up to ``around`` lines before and after; None when it cannot be read.

    Works for whatever ``linecache`` knows: files, zipped packages, notebook cells.
    """
    lines = linecache.getlines(location.file)
    if not 1 <= location.line <= len(lines):
        return None
    first = max(1, location.line - around)
    taken = lines[first - 1 : location.line + around]
    return CodeExcerpt(first_line=first, lines=tuple(line.rstrip("\n").expandtabs(4) for line in taken))


def excerpts_of(*locations: Location | None) -> dict[str, CodeExcerpt]:
    """Excerpts by ``str(location)`` for those locations whose source can be read."""
    found = {str(place): excerpt(place) for place in locations if place is not None}
    return {place: lines for place, lines in found.items() if lines is not None}


def definition(location: Location, most: int = 20) -> Location:
    """The line of the ``def`` below the decorators: Python counts a function from its first decorator on."""
    for line in range(location.line, location.line + most):
        text = linecache.getline(location.file, line).lstrip()
        if text.startswith(("def ", "async def ")):
            return replace(location, line=line)
        if not text:
            break
    return location


def source_line(location: Location) -> str:
    """The one line of ``location``, or "" when it cannot be read."""
    return linecache.getline(location.file, location.line).rstrip("\n")
