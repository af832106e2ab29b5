"""What a VJP is found to need decides what is saved: too little would be a wrong gradient, so doubt means all."""

from __future__ import annotations

import pytest

from gradcheck_suite.engine.usage import META, NOTHING, VALUE, keywords, usage

shape = None  # a global of the same name as an attribute must not confuse the reader


def rebinds(g, out, x):
    x = x + 1
    return g * x


def branches(g, out, x):
    if g.ndim:
        return g * x
    return g


@pytest.mark.parametrize(
    ("rule", "of_out", "of_x"),
    [
        (lambda g, out, x: g, NOTHING, NOTHING),
        (lambda g, out, x: g * x, NOTHING, VALUE),
        (lambda g, out, x: g * out, VALUE, NOTHING),
        (lambda g, out, x: (g, x.shape, x.dtype, x.ndim, x.size), NOTHING, META),
        (lambda g, out, x: (g, x.shape, x), NOTHING, VALUE),
        (lambda g, out, x: (g, x.data), NOTHING, VALUE),
        (lambda g, out, x: [g * x for _ in range(2)], NOTHING, VALUE),
        (lambda g, out, x: (lambda: x.shape)(), NOTHING, VALUE),
        (lambda g, out, x: (g, out.shape, shape), META, NOTHING),
        (lambda g, *rest: g, VALUE, VALUE),
        (rebinds, NOTHING, VALUE),
        (branches, NOTHING, VALUE),
        (max, VALUE, VALUE),
    ],
)
def test_usage(rule, of_out, of_x):
    assert usage(rule, 3)[1:] == (of_out, of_x)


def test_keywords():
    assert keywords(lambda g, out, x, *, axis, keepdims=False: g) == {"axis", "keepdims"}
    assert keywords(lambda g, out, x, **static: g) is None
