"""The command line: ``gradcheck check TARGET`` and what goes with it.

Exit codes: 0 clean, 1 findings, 2 usage (a target, option or file that is not understood), 3 nothing was verified.
Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._version import __version__
from .config import FAIL_ON, find_settings
from .errors import ConfigurationError, GradcheckError, InputError, NothingToVerifyError
from .wording import nearest, plural

if TYPE_CHECKING:
    import numpy as np

    from .evidence import Report

__all__ = ["app", "main"]

CLEAN, FINDINGS, USAGE, NOTHING = 0, 1, 2, 3

_DTYPES = {"float64": "double", "float32": "float", "float16": "half", "bfloat16": "bfloat16"}

app = typer.Typer(
    name="gradcheck",
    help="Know that a gradient is right.",
    epilog="Exit codes: 0 clean, 1 findings, 2 usage, 3 nothing verified.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the ``gradcheck`` command."""
    try:
        app()
    except NothingToVerifyError as error:
        _say(error, NOTHING)
    except GradcheckError as error:
        _say(error, USAGE)


def _say(error: Exception, code: int) -> NoReturn:
    Console(stderr=True, highlight=False).print(Text.assemble(("gradcheck: ", "bold red"), str(error)))
    raise SystemExit(code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gradcheck_suite {__version__}")
        raise typer.Exit(CLEAN)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Know that a gradient is right."""


# ------------------------------------------------------------------------------------------------ check


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            help="file.py:NAME, package.module:NAME, torchvision:NAME, timm:NAME or transformers:NAME. "
            "Inputs are taken from NAME_inputs, gradcheck_inputs or inputs in the same file, else inferred."
        ),
    ],
    html: Annotated[str, typer.Option(help="Write the report as one HTML file.")] = "",
    json_path: Annotated[str, typer.Option("--json", help="Write the report as JSON.")] = "",
    inputs: Annotated[
        str,
        typer.Option(
            help="Shapes of the inputs, separated by ';': '2,3,32,32' or '4,16:int<100>' for whole numbers below 100."
        ),
    ] = "",
    order: Annotated[
        int, typer.Option(min=1, max=3, help="2 also checks the gradient of the gradient, 3 once more.")
    ] = 1,
    forward_mode: Annotated[
        bool, typer.Option("--forward-mode", help="Also check torch's forward mode (JVPs).")
    ] = False,
    device: Annotated[
        list[str] | None, typer.Option(help="Verify there as well and compare; may be repeated.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Compare torch.compile's gradients with this backend; may be repeated."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Share of a tensor's largest entry that an error may be.", show_default="derived"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    dtype: Annotated[
        str,
        typer.Option(help=f"Convert model and inputs first: {', '.join(_DTYPES)}.", show_default="their own"),
    ] = "",
    ignore: Annotated[list[str] | None, typer.Option(help="A rule to silence; may be repeated.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Seconds for the whole check; what does not fit is sampled and counted."),
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option("--progress/--no-progress", help="Show the stages.", show_default="on a terminal"),
    ] = None,
    fail_on: Annotated[
        str, typer.Option(help=f"Lightest finding that fails: {', '.join(FAIL_ON)}.", show_default="error")
    ] = "",
) -> None:
    """Verify every gradient of a model or function."""
    settings = find_settings()
    seed = settings.seed if seed is None else seed
    if fail_on and fail_on not in FAIL_ON:
        raise ConfigurationError(
            f"reading --fail-on failed: {fail_on!r} is none of {', '.join(FAIL_ON)}. Use one of them."
        )
    for option, path, suffix in (("--html", html, ".html"), ("--json", json_path, ".json")):
        if path and not path.endswith(suffix):
            raise ConfigurationError(
                f"reading {option} failed: {path!r} does not end in {suffix}. Name it so."
            )
    shapes = _parse_shapes(inputs) if inputs else None

    from .targets import resolve_target

    resolved = resolve_target(target, seed)
    given = shapes if shapes is not None else resolved.inputs
    subject, given = _converted(resolved.subject, given, dtype)

    from .pipeline import check_gradients

    report = check_gradients(
        subject,
        given,
        order=order,
        forward_mode=forward_mode,
        devices=device or settings.devices or None,
        backends=("eager", *(backend or ())),
        tolerance=settings.tolerance if tolerance is None else tolerance,
        seed=seed,
        ignore=(*settings.ignore, *(ignore or ())),
        budget=settings.budget if budget is None else budget,
        progress=progress,
    )
    report = _completed(report, target, resolved.note, sys.argv[1:])
    _show(report)
    _save(report, [path for path in (html or settings.html, json_path or settings.json) if path])
    raise typer.Exit(_exit_code(report, fail_on or settings.fail_on))


def _completed(report: Report, target: str, note: str, arguments: Sequence[str]) -> Report:
    """The report with what only the command line knows: the target and the command that repeats the check."""
    import shlex
    from dataclasses import replace

    command = report.reproduction or shlex.join(["gradcheck", *arguments])
    return replace(
        report,
        title=target,
        notes=(note, *report.notes) if note else report.notes,
        reproduction=command,
    )


def _exit_code(report: Report, fail_on: str) -> int:
    from .evidence import Severity

    if fail_on != "never":
        limit = Severity.parse(fail_on)
        if any(f.severity >= limit for f in report.findings):
            return FINDINGS
    if not report.verified:
        return NOTHING
    return CLEAN


def _show(report: Report) -> None:
    from .report.text import print_report

    print_report(report)


def _save(report: Report, paths: Sequence[str]) -> None:
    for path in paths:
        typer.echo(f"wrote {report.save(path)}")


def _parse_shapes(text: str) -> Callable[[np.random.Generator], Any]:
    """``"2,3;4:int<9>"`` as a function of a random generator that returns one array per shape."""
    makers = [_maker(part.strip(), text) for part in text.split(";") if part.strip()]

    def draw(rng: np.random.Generator) -> Any:
        arrays = tuple(make(rng) for make in makers)
        return arrays[0] if len(arrays) == 1 else arrays

    return draw


def _maker(part: str, text: str) -> Callable[[np.random.Generator], Any]:
    sizes, colon, kind = part.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.replace("x", ",").split(",") if size.strip())
        limit = int(kind.removeprefix("int<").removesuffix(">")) if colon else 0
    except ValueError:
        shape, limit = (-1,), 0
    if any(size < 0 for size in shape) or (colon and (limit < 1 or not kind.startswith("int<"))):
        raise InputError(
            f"reading --inputs {text!r} failed: {part!r} is no shape. Sizes are whole numbers, and whole-number "
            "inputs need a bound. Write '2,3,32,32' or '4,16:int<100>', several separated by ';'."
        )
    if colon:
        return lambda rng: rng.integers(0, limit, shape)
    return lambda rng: rng.standard_normal(shape)


def _converted(subject: Any, inputs: Any, dtype: str) -> tuple[Any, Any]:
    """Model and given tensors in another dtype; inputs that are inferred or drawn follow the model's parameters."""
    if not dtype:
        return subject, inputs
    method = _DTYPES.get(dtype)
    if method is None:
        raise ConfigurationError(
            f"reading --dtype failed: {dtype!r} is none of {', '.join(_DTYPES)}. Use one of them."
        )
    if hasattr(subject, "named_parameters"):
        subject = getattr(subject, method)()
    elif callable(inputs) or inputs is None:
        raise ConfigurationError(
            f"applying --dtype {dtype} failed: the target is a function and its inputs are drawn, so nothing says "
            "what to convert. Provide `inputs` as tensors of that dtype in the file."
        )
    return subject, _convert_tensors(inputs, method)


def _convert_tensors(value: Any, method: str) -> Any:
    if isinstance(value, dict):
        return {key: _convert_tensors(entry, method) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_convert_tensors(entry, method) for entry in value)
    is_real_tensor = getattr(value, "is_floating_point", None)
    return getattr(value, method)() if is_real_tensor is not None and is_real_tensor() else value


# ------------------------------------------------------------------------------------------------ run


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def run(
    program: Annotated[
        list[str] | None, typer.Argument(help="SCRIPT [ARGS...]", metavar="SCRIPT [ARGS]...")
    ] = None,
    module: Annotated[str, typer.Option("-m", help="Run a module instead, as python -m does.")] = "",
    html: Annotated[str, typer.Option(help="Write the report as one HTML file.")] = "",
    json_path: Annotated[str, typer.Option("--json", help="Write the report as JSON.")] = "",
    hazards_only: Annotated[
        bool, typer.Option("--hazards-only", help="Do not verify the backwards with the engine.")
    ] = False,
    ignore: Annotated[list[str] | None, typer.Option(help="A rule to silence; may be repeated.")] = None,
    fail_on: Annotated[
        str, typer.Option(help=f"Lightest finding that fails: {', '.join(FAIL_ON)}.", show_default="error")
    ] = "",
) -> None:
    """Run a training script under watch; nothing of it has to be changed.

    The program's own exit code is kept if it is not 0.
    """
    settings = find_settings()
    words = list(program or ())
    if not module and not words:
        raise ConfigurationError("running a program failed: none was named. Write gradcheck run SCRIPT.")
    if fail_on and fail_on not in FAIL_ON:
        raise ConfigurationError(
            f"reading --fail-on failed: {fail_on!r} is none of {', '.join(FAIL_ON)}. Use one of them."
        )
    for option, path, suffix in (("--html", html, ".html"), ("--json", json_path, ".json")):
        if path and not path.endswith(suffix):
            raise ConfigurationError(
                f"reading {option} failed: {path!r} does not end in {suffix}. Name it so."
            )

    from .watching.running import run_program

    target = module or words.pop(0)
    ended = run_program(
        target,
        words,
        module=bool(module),
        verify=not hazards_only,
        ignore=(*settings.ignore, *(ignore or ())),
    )
    typer.echo()
    _show(ended.report)
    if ended.internal_errors:
        typer.echo(
            f"gradcheck: watching stopped after a fault of its own:\n{ended.internal_errors[0]}", err=True
        )
    _save(ended.report, [path for path in (html or settings.html, json_path or settings.json) if path])
    code = _exit_code(ended.report, fail_on or settings.fail_on)
    raise typer.Exit(ended.exit_code or (FINDINGS if code == FINDINGS else CLEAN))


# ------------------------------------------------------------------------------------------------ demo


@app.command()
def demo() -> None:
    """Check a right and a wrong model, explain the finding and write a report."""
    from .capture.demo import demo_inputs, demo_models
    from .pipeline import check_gradients

    console = Console(highlight=False)
    right, wrong = demo_models()
    for number, (model, words) in enumerate(
        (
            (
                right,
                "A small model, differentiated by autograd: every gradient is compared, element by element.",
            ),
            (wrong, "The same function, but one operation has a backward of its own, and it lacks a factor."),
        ),
        1,
    ):
        console.print(Text.assemble((f"{number}. ", "bold"), words))
        console.print()
        report = check_gradients(model, demo_inputs())
        _show(report)
        console.print()
    console.print(Text("Both models compute the same output; training the second one would simply go wrong."))
    for code in sorted({f.code for f in report.errors}):
        console.print(Text.assemble("More about it: ", (f"gradcheck explain {code}", "bold")))
    path = report.save(str(Path("reports") / "demo.html"))
    console.print(Text.assemble("The same as a page, with the graph: ", (path, "bold")))


# ------------------------------------------------------------------------------------------------ looking up


@app.command()
def explain(rule: Annotated[str, typer.Argument(help="Code or name: GC101, gradient-mismatch.")]) -> None:
    """Explain a rule: what it finds, why that bites, bad and good code, what it misses."""
    from .rules import explain as page_of

    typer.echo(page_of(rule), nl=False)


@app.command()
def rules() -> None:
    """List the rules."""
    from .rules import all_rules

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("code", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    table.add_column("severity", no_wrap=True)
    table.add_column("finds", overflow="fold")
    for info in all_rules():
        table.add_row(info.code, info.slug, info.severity.label, Text(info.page.summary))
    Console(highlight=False).print(table)


@app.command()
def ops(
    family: Annotated[str, typer.Argument(help="List the operations of one family.")] = "",
    seen: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead: what is seen in this model, or in this report written with --json, and what of it is "
            "not understood; repeatable."
        ),
    ] = None,
) -> None:
    """Show which ATen operations the engine knows, by family."""
    from .aten import known_names, lookup

    if seen:
        _show_seen(seen)
        return
    found = [m for m in map(lookup, known_names()) if m is not None]
    counts = Counter(m.family for m in found)
    console = Console(highlight=False)
    if family:
        if family not in counts:
            raise ConfigurationError(
                f"listing operations failed: there is no family {family!r}. "
                f"{nearest(family, counts) or 'Known are ' + ', '.join(sorted(counts)) + '.'}"
            )
        for meaning in found:
            if meaning.family == family:
                console.print(Text(meaning.name))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("family", no_wrap=True)
    table.add_column("overloads", justify="right")
    table.add_column("for example", overflow="ellipsis", no_wrap=True)
    for name in sorted(counts):
        examples = [m.name.removeprefix("aten::") for m in found if m.family == name][:6]
        table.add_row(name, f"{counts[name]:,}", Text(", ".join(examples)))
    console.print(table)
    console.print(f"{plural(len(found), 'overload')}; in-place, out= and copy forms are derived from them")


def _show_seen(targets: list[str]) -> None:
    """What some models or saved reports consist of; what the engine does not understand by itself comes first."""
    from .report.seen import operations_seen

    reports = []
    for target in targets:
        if target.endswith(".json"):
            reports.append(_load(Path(target)))
            continue
        from .pipeline import check_gradients
        from .targets import resolve_target

        resolved = resolve_target(target)
        reports.append(check_gradients(resolved.subject, resolved.inputs))
    found_operations = operations_seen(reports)
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("operation", no_wrap=True)
    table.add_column("nodes", justify="right")
    table.add_column("verified by")
    for operation in found_operations:
        kinds = [f"{kind or 'nobody'}" for kind in operation.how]
        text = ", ".join(kinds) + (f": {operation.reason}" if operation.reason else "")
        table.add_row(Text(operation.name), f"{operation.nodes:,}", Text(text))
    console.print(table)
    missing = sum(not operation.understood for operation in found_operations)
    console.print(
        f"{plural(len(found_operations), 'operation')}, {missing or 'none'} of them not understood by the engine itself"
    )


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A report written with --json.")],
    html: Annotated[str, typer.Option(help="Write it as one HTML file.")] = "",
) -> None:
    """Show a saved report again, or turn it into HTML."""
    loaded = _load(file)
    if html:
        if not html.endswith(".html"):
            raise ConfigurationError(f"reading --html failed: {html!r} does not end in .html. Name it so.")
        _save(loaded, [html])
    else:
        _show(loaded)
    raise typer.Exit(_exit_code(loaded, "error"))


def _load(file: Path) -> Report:
    from .report import Report

    try:
        return Report.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(
            f"reading the report {str(file)!r} failed: {error.strerror}. Name a file written with --json."
        ) from error
    except ValueError as error:  # not JSON, or not a report
        raise ConfigurationError(f"reading the report {str(file)!r} failed. {error}") from error


if __name__ == "__main__":
    main()
