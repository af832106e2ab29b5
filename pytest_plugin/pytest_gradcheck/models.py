"""Models as tests of their own: ``--gradcheck-model=TARGET`` and the hook ``pytest_gradcheck_models``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gradcheck_suite.errors import GradcheckError
from gradcheck_suite.wording import relative_path

from .options import Options

if TYPE_CHECKING:
    from gradcheck_suite.evidence import Report

__all__ = ["ModelItem", "collect_models"]

_FOLDER = "gradcheck"
"""What stands before the ``::`` in the ids of these tests."""


@dataclass(frozen=True)
class _Subject:
    """What one of these tests checks: a target to resolve, or what a hook gave."""

    target: str = ""
    model: Callable[..., Any] | None = None
    inputs: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def collect_models(session: pytest.Session, options: Options) -> list[pytest.Item]:
    """The tests of all models asked for.

    Raises:
        pytest.UsageError: a hook returned something else than models by name, or two models have one name.
    """
    subjects = {target: _Subject(target) for target in options.models}
    for given in session.config.hook.pytest_gradcheck_models(config=session.config):
        if not isinstance(given, Mapping):
            raise pytest.UsageError(
                f"collecting models failed: pytest_gradcheck_models returned {type(given).__name__}. "
                'Return a dict of models by name: {"net": Net()}, {"net": (Net(), inputs)} or {"net": "file.py:Net"}.'
            )
        for name, value in given.items():
            if name in subjects:
                raise pytest.UsageError(
                    f"collecting models failed: two models are named {name!r}. Rename one of them."
                )
            subjects[str(name)] = _subject(str(name), value)
    if not subjects:
        return []
    collector: ModelCollector = ModelCollector.from_parent(
        session, name=_FOLDER, nodeid=_FOLDER, subjects=subjects, options=options
    )
    # Through the session, so that the terminal counts them and plugins see them like any other.
    return list(session.genitems(collector))


def _subject(name: str, value: Any) -> _Subject:
    if isinstance(value, str):
        return _Subject(value)
    model, *rest = value if isinstance(value, tuple) else (value,)
    if not callable(model) or len(rest) > 2 or (len(rest) == 2 and not isinstance(rest[1], Mapping)):
        raise pytest.UsageError(
            f"collecting models failed: the model {name!r} of pytest_gradcheck_models is {value!r:.80}. "
            "Give a model, (model, inputs), (model, inputs, options of check_gradients) or a target's text."
        )
    return _Subject(model=model, inputs=rest[0] if rest else None, settings=rest[1] if len(rest) == 2 else {})


class ModelCollector(pytest.Collector):
    """Holds the tests of models; stands beside the test files."""

    def __init__(self, *, subjects: Mapping[str, _Subject], options: Options, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._subjects = subjects
        self._options = options

    def collect(self) -> Iterator[pytest.Item]:
        for name, subject in self._subjects.items():
            yield ModelItem.from_parent(self, name=name, subject=subject, options=self._options)


class ModelItem(pytest.Item):
    """One model, checked as :func:`gradcheck_suite.check_gradients` does.

    Attributes:
        checked: takes in the report; set by the watcher.
        budget: seconds for the check, or None.
    """

    def __init__(self, *, subject: _Subject, options: Options, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._subject = subject
        self._options = options
        self.checked: Callable[[Report], None] = lambda report: None
        self.budget: float | None = None

    def runtest(self) -> None:
        from gradcheck_suite.pipeline import check_gradients

        model, inputs = self._subject.model, self._subject.inputs
        if model is None:
            from gradcheck_suite.targets import resolve_target

            target = resolve_target(self._subject.target, self._options.seed)
            model, inputs = target.subject, target.inputs
        settings: dict[str, Any] = {"seed": self._options.seed, "ignore": sorted(self._options.ignore)}
        if self._options.devices:
            settings["devices"] = self._options.devices
        if self.budget is not None:
            settings["budget"] = self.budget
        report = check_gradients(model, inputs, **{**settings, **self._subject.settings})
        self.checked(report)
        if not report.verified and not report.errors:
            pytest.fail(f"nothing was verified\n\n{report}", pytrace=False)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, GradcheckError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        file = self._subject.target.rpartition(":")[0]
        path = self.path / (file if file.endswith(".py") else _FOLDER)
        return path, None, f"gradients of {relative_path(self.name)}"
