"""A program run as ``python`` runs it, under ``watch``."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..errors import ConfigurationError
from ..evidence import Report
from .ledger import Ledger
from .session import Session

__all__ = ["Outcome", "run_program"]

_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C has ended


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Attributes:
        exit_code: its own.
        report: what the session has seen.
        internal_errors: faults of the watcher's, as tracebacks; the program has gone on without it.
    """

    exit_code: int
    report: Report
    internal_errors: tuple[str, ...]


def run_program(
    target: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    verify: bool = True,
    ignore: Sequence[str] = (),
) -> Outcome:
    """Run a script or module as ``__main__`` inside a session; it ends as it would end under ``python``.

    Its exceptions are printed by ``sys.excepthook``, its ``SystemExit`` becomes the exit code.

    Args:
        target: path of a script (or of a folder or archive with a ``__main__.py``), or the name of a module.
        arguments: ``sys.argv[1:]`` of the program.
        module: ``target`` names a module, as after ``python -m``.
        verify: verify every backward with the engine.
        ignore: rules to silence, by code or name.

    Raises:
        ConfigurationError: there is no such script.
    """
    if not module and not Path(target).exists():
        raise ConfigurationError(
            f"running {target!r} failed: there is no such file. Name a script, or a module with -m."
        )
    session = Session(
        verify=verify,
        name=f"-m {target}" if module else target,
        ignore=tuple(ignore),
        ledger=Ledger(),
        whole_program=True,
    )
    with _as_main(target, arguments, module):
        exit_code = _exit_code(session, target, module)
    return Outcome(exit_code, session.report, tuple(session.internal_errors))


def _exit_code(session: Session, target: str, module: bool) -> int:
    try:
        with session:
            _execute(target, module)
    except SystemExit as error:
        return _code_of(error)
    except BaseException as error:
        _flush()
        trace = _users_part(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        return _INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    finally:
        _flush()
    return 0


def _execute(target: str, module: bool) -> None:
    if module:
        runpy.run_module(target, run_name="__main__", alter_sys=True)
    elif os.path.isdir(target) or (not target.endswith((".py", ".pyw")) and _is_archive(target)):
        runpy.run_path(target, run_name="__main__")
    else:
        path = os.path.abspath(target)
        main = types.ModuleType("__main__")
        main.__dict__.update(__file__=path, __builtins__=builtins, __cached__=None)
        sys.modules["__main__"] = main
        with io.open_code(path) as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)


def _is_archive(target: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(target)


@contextmanager
def _as_main(target: str, arguments: Sequence[str], module: bool) -> Iterator[None]:
    """While it lasts, ``sys.argv``, ``sys.path[0]`` and ``__main__`` are the program's."""
    argv, path, main = sys.argv, list(sys.path), sys.modules["__main__"]
    sys.argv = ["-m" if module else target, *arguments]
    first = os.getcwd() if module else os.path.dirname(os.path.abspath(target))
    # A console script's sys.path[0] is the folder of the script, which is not the program's.
    sys.path[:1] = [first]
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.modules["__main__"] = argv, path, main


def _code_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    _flush()
    print(error.code, file=sys.stderr)
    return 1


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames between us and the program."""
    ours = (__file__, runpy.__file__)
    part = trace
    while part is not None and (
        part.tb_frame.f_code.co_filename in ours
        or part.tb_frame.f_code.co_filename.startswith("<frozen runpy")
    ):
        part = part.tb_next
    return part if part is not None else trace


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
