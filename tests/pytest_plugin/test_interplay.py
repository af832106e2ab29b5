"""Side by side with other plugins, each really installed (the extra ``interplay``), on real gradients."""

from __future__ import annotations

import importlib.util
import json
import xml.etree.ElementTree as ElementTree

import pytest

from .conftest import Suite
from .test_real import MODEL


def needs(module: str) -> pytest.MarkDecorator:
    """Skips where the plugin is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


BOTH = """
    from model import train

    def test_right():
        train(wrong=False)

    def test_wrong():
        train(wrong=True)
"""
WRONG = "FAILED test_a.py::test_wrong* GC101 gradient-mismatch*"


@pytest.fixture
def project(suite: Suite) -> Suite:
    suite.write(model=MODEL, test_a=BOTH)
    return suite


@needs("xdist")
def test_xdist_by_file(project: Suite) -> None:
    project.write(test_b=BOTH)
    result = project.run("--gradcheck", "-n", "2", "--dist", "loadfile")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["4 tests watched, 4 ran a backward (4 backwards)"])


@needs("pytest_randomly")
def test_randomly(project: Suite) -> None:
    # It seeds torch's generators before each phase, and shuffles.
    result = project.run("--gradcheck", plugins=["pytest_randomly"])
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["Using --randomly-seed=*", WRONG])


@needs("pytest_timeout")
def test_timeout(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        import time
        from model import train

        def test_hangs():
            train(wrong=True)
            time.sleep(60)

        def test_right():
            train(wrong=False)
        """,
    )
    result = suite.run("--gradcheck", "--timeout=8", plugins=["pytest_timeout"])
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*gradcheck: found in this test*", "FAILED *test_hangs - Failed: Timeout*"])


@needs("pytest_rerunfailures")
def test_reruns(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        from model import train

        times = []

        def test_wrong_at_first():
            times.append(1)
            train(wrong=len(times) == 1)

        def test_wrong():
            train(wrong=True)
        """,
    )
    result = suite.run("--gradcheck", "--reruns=1", plugins=["pytest_rerunfailures"])
    # What the first try found is no longer true of the test that counts.
    result.stdout.fnmatch_lines(["  error GC101 gradient-mismatch: 1 in 1 test", WRONG])
    result.stdout.fnmatch_lines(["*1 failed, 1 passed, 2 rerun*"])


@needs("pytest_cov")
def test_coverage(project: Suite) -> None:
    result = project.run("--gradcheck", "--cov=model", plugins=["pytest_cov.plugin"])
    result.assert_outcomes(passed=1, failed=1)
    # The backward runs in torch's own thread or in ours; its lines count as run either way, as without the flag.
    result.stdout.fnmatch_lines(["model.py * 100%", WRONG])


@needs("pytest_benchmark")
def test_a_benchmark_is_not_watched(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        import pytest
        from model import train
        from gradcheck_suite.watching.doors import innermost

        @pytest.fixture
        def prepared():
            train(wrong=False)

        def test_speed(benchmark, prepared):
            def step():
                assert innermost.get() is None
                train(wrong=True)
            benchmark.pedantic(step, rounds=3)

        @pytest.fixture
        def latency():
            return "of the project itself"

        def test_wrong(latency):
            train(wrong=True)
        """,
    )
    result = suite.run("--gradcheck", plugins=["pytest_benchmark.plugin"])
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["not watched: 1 test, the fixture benchmark measures how long it takes", WRONG]
    )


@needs("pytest_asyncio")
def test_coroutines(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        import asyncio
        import unittest

        import pytest
        from model import train

        @pytest.mark.asyncio
        async def test_right():
            await asyncio.sleep(0)
            train(wrong=False)

        @pytest.mark.asyncio
        async def test_wrong():
            await asyncio.sleep(0)
            train(wrong=True)

        @pytest.mark.asyncio(loop_scope="module")
        async def test_wrong_in_a_wider_loop():
            await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(lambda: None))
            train(wrong=True)

        class TestUnit(unittest.IsolatedAsyncioTestCase):
            async def test_wrong(self):
                await asyncio.sleep(0)
                train(wrong=True)
        """,
    )
    result = suite.run("--gradcheck", "-v", "-W", "ignore", plugins=["pytest_asyncio.plugin"])
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["4 tests watched, 4 ran a backward (4 backwards)"])


@needs("pytest_asyncio")
def test_coroutines_that_set_something_up(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        import asyncio
        import unittest
        import pytest
        import pytest_asyncio
        from model import train

        @pytest_asyncio.fixture
        async def value():
            await asyncio.sleep(0)
            train(wrong=True)

        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def of_module():
            await asyncio.sleep(0)
            train(wrong=True)
            yield

        @pytest.mark.asyncio
        async def test_wrong_value(value):
            pass

        @pytest.mark.asyncio(loop_scope="module")
        async def test_wrong_first(of_module):
            pass

        @pytest.mark.asyncio(loop_scope="module")
        async def test_right_second(of_module):
            pass

        class TestUnit(unittest.IsolatedAsyncioTestCase):
            async def asyncSetUp(self):
                await asyncio.sleep(0)
                train(wrong=True)

            async def test_wrong_set_up(self):
                pass

        class TestPlain(unittest.IsolatedAsyncioTestCase):
            def setUp(self):
                train(wrong=True)

            async def test_wrong_set_up(self):
                pass
        """,
    )
    result = suite.run("--gradcheck", "-v", "-W", "ignore", plugins=["pytest_asyncio.plugin"])
    result.assert_outcomes(passed=1, failed=4)
    result.stdout.fnmatch_lines(["*::test_right_second PASSED*"])


@needs("pytest_html")
def test_page_of_pytest_html(project: Suite) -> None:
    plugins = ["pytest_metadata.plugin", "pytest_html.plugin"]
    result = project.run("--gradcheck", "--html=page.html", "--self-contained-html", plugins=plugins)
    result.assert_outcomes(passed=1, failed=1)
    page = (project.path / "page.html").read_text(encoding="utf-8")
    assert "GC101 gradient-mismatch" in page
    # What travels with the reports is no business of that page.
    assert "schema_version" not in page


@needs("pytest_torch")
def test_pytest_torch(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        import torch
        from model import Net, train
        from pytest_torch import assert_all_params_receive_grad

        def test_right(torch_seed):
            assert_all_params_receive_grad(Net(wrong=False), (torch.randn(2, 4),), lambda y: y.sum())

        def test_wrong(torch_seed):
            train(wrong=True)
        """,
    )
    result = suite.run("--gradcheck", plugins=["pytest_torch.plugin"])
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([WRONG])


@needs("hypothesis")
def test_hypothesis(suite: Suite) -> None:
    suite.write(
        model=MODEL,
        test_a="""
        import torch
        from hypothesis import HealthCheck, given, settings, strategies as st
        from model import Cube

        examples = []

        @given(st.integers(1, 50))
        def test_right(n):
            examples.append(n)
            x = torch.ones(n, requires_grad=True)
            (x**3).sum().backward()

        def test_all_examples_ran():
            assert len(set(examples)) > 20

        class TestClass:
            @given(st.integers(0, 1000))
            @settings(max_examples=200)
            def test_wrong_from_17_on(self, n):
                x = torch.full((3,), float(n), requires_grad=True)
                (Cube.apply(x) if n >= 17 else x**3).sum().backward()
        """,
    )
    arguments = ("--gradcheck", "--gradcheck-json=run.json")
    result = suite.run(*arguments, plugins=["_hypothesis_pytestplugin"])
    result.assert_outcomes(passed=2, failed=1)
    text = result.stdout.str()
    assert "n=17" in text  # shrunk to the smallest
    for noise in ("Flaky", "DeadlineExceeded", "HealthCheck", "Unreliable"):
        assert noise not in text
    result.stdout.fnmatch_lines(
        ["*E*GC101 gradient-mismatch*", "  error GC101 gradient-mismatch: 1 in 1 test"]
    )
    counts = json.loads((suite.path / "run.json").read_text(encoding="utf-8"))["counts"]
    # Fifty lengths, a handful of nodes each, none of them more than twice; and a Function ten times.
    assert counts["backwards"] > 50
    assert counts["nodes"] <= 4 * 2 * 50 + 50


@needs("xdist")
def test_junit_and_workers_that_crash(project: Suite) -> None:
    project.write(
        test_b="""
        import os
        from model import train

        def test_before():
            train(wrong=True)

        def test_crash():
            train(wrong=True)
            os._exit(3)

        def test_after():
            train(wrong=True)
        """
    )
    result = project.run("--gradcheck", "-n", "2", "--junitxml=j.xml", "--gradcheck-json=run.json")
    result.assert_outcomes(passed=1, failed=4)
    report = json.loads((project.path / "run.json").read_text(encoding="utf-8"))
    (finding,) = (f for f in report["findings"] if f["code"] == "GC101")
    expected = ["test_a.py::test_wrong", "test_b.py::test_after", "test_b.py::test_before"]
    assert sorted(finding["evidence"]["tests"]) == expected
    assert finding["count"] == 3
    names = [p.get("name") for p in ElementTree.parse(project.path / "j.xml").iter("property")]
    assert names.count("gradcheck.finding") == 3
    result.stdout.fnmatch_lines(["not watched: 1 test, its worker crashed"])
