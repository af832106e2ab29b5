"""A browser, reports saved by real checks, and pages that remember what they asked for and complained about."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from torch import nn

from gradcheck_suite import check_gradients

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# No dot (a module's name may not have one), no slash in the file's name; `hacked` becomes a global when it runs.
HOSTILE_MODULE = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\"'"
HOSTILE_FILE = "<script>hacked=1<img src=x onerror=hacked=1>\"'&.py"

MODEL = """
import torch
from torch import nn


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 2 * x**2 * cotangent  # 3 is right


class Layer(nn.Module):
    def forward(self, x):
        return Cube.apply(x)


class Net(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.add_module(name, Layer())
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x
"""


def unavailable(what: str) -> NoReturn:
    """Skip the test; or fail it where a browser has been promised."""
    if os.environ.get("GRADCHECK_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{what}, and GRADCHECK_REQUIRE_BROWSER=1 requires a browser", pytrace=False)
    pytest.skip(what)


def browser_program() -> str | None:
    """Path of the first installed browser."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if importlib.util.find_spec("playwright") is None:
        unavailable("playwright is not installed")
    program = browser_program()
    if program is None:
        unavailable(f"none of {', '.join(PROGRAMS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, the addresses that it asked for, and its console errors and uncaught exceptions."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Open a file in a fresh context; keywords are those of the context (``color_scheme``, ``viewport``)."""
    contexts = []

    def visit(path: Path, **options: Any) -> Opened:
        context = browser.new_context(**options)
        contexts.append(context)
        opened = Opened(context.new_page())
        opened.page.set_default_timeout(10_000)
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on(
            "console", lambda said: opened.complaints.append(said.text) if said.type == "error" else None
        )
        opened.page.goto(path.as_uri())
        return opened

    yield visit
    for context in contexts:
        context.close()


def save_report(folder: Path, file: str, module: str) -> Path:
    """The report of a small model, written to ``file``, whose module ``module`` has a wrong backward."""
    source = folder / file
    source.write_text(MODEL, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("browser_model", source)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    torch.manual_seed(0)
    net: nn.Module = loaded.Net(module)
    report = check_gradients(net, (torch.randn(3, 4),))
    assert not report.ok
    return Path(report.save(folder / "report.html"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_report(tmp_path_factory.mktemp("plain"), "small_model.py", "cube")


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose file and module are named to break out of their place in the page."""
    return save_report(tmp_path_factory.mktemp("hostile"), HOSTILE_FILE, HOSTILE_MODULE)


@pytest.fixture(scope="module")
def long_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model with long names that have no place to break."""
    return save_report(tmp_path_factory.mktemp("long"), "m" * 120 + ".py", "layer" * 40)
