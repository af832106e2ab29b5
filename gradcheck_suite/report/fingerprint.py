"""Which findings are the same finding in another run: by what they say about the code, not by line numbers.

Baselines and SARIF share these; both must survive a line that is inserted above.
"""

from __future__ import annotations

import hashlib
import os

from ..evidence import Finding
from ..wording import relative_path

__all__ = ["blamed_source", "fingerprint", "path_below"]


def path_below(file: str, root: str | os.PathLike[str] | None) -> str:
    """``file`` with ``/`` and relative to ``root`` if it lies below; else as people read it.

    Args:
        file: as Python reports it; a relative one belongs to the working directory.
        root: a folder; None means the working directory.
    """
    base = os.path.realpath(os.fspath(root) if root is not None else os.getcwd())
    try:
        relative = os.path.relpath(os.path.realpath(file), base)
    except ValueError:  # Windows: another drive
        return relative_path(file)
    if relative == os.pardir or relative.startswith(os.pardir + os.sep):
        return relative_path(file)
    return relative.replace(os.sep, "/")


def blamed_source(finding: Finding) -> str:
    """The blamed line as it was when the finding was made, without its indentation; "" when it is not known."""
    place = finding.location
    taken = finding.excerpts.get(str(place)) if place is not None else None
    if place is None or taken is None or not 0 <= place.line - taken.first_line < len(taken.lines):
        return ""
    return taken.lines[place.line - taken.first_line].strip()


def fingerprint(finding: Finding, root: str | os.PathLike[str] | None = None) -> str:
    """Twenty hexadecimal digits: the same for the same fault, whatever its line number and its numbers.

    It is made of the rule, the file relative to ``root``, the function, the text of the blamed line and the operation.
    Where no line is known, the first line of the message stands for it, with its numbers left out.
    """
    place = finding.location
    if place is None:
        line = finding.message.split("\n", 1)[0]
        # "linear.1.weight" names a parameter, "1.5e-3" is what was measured.
        words = [word for word in line.split() if not word[:1].isdigit() and word[:1] not in "-+"]
        where = ["", "", " ".join(words), finding.module]
    else:
        where = [path_below(place.file, root), place.function, blamed_source(finding), ""]
    text = "\0".join([finding.code, *where, finding.op])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
