"""Products that contract axes: matmul, outer, einsum.

Derivatives from the definition: in a multilinear form every factor's gradient is the form itself with the
cotangent in that factor's place and the other factors conjugated.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..primitive import primitive
from ..registry import derived
from ..tensor import Tensor
from .arithmetic import multiply
from .complex_parts import bar
from .reduction import sum as sum_over
from .shape import diagonal, expand_dims, reshape, squeeze, swapaxes, transpose

Array = NDArray[Any]


@primitive(
    analytic=True,
    samples=lambda draw: [
        (draw.real(3, 4), draw.real(4, 2)),
        (draw.real(4), draw.real(4)),
        (draw.complex(2, 3), draw.real(3)),
        (draw.real(3), draw.complex(2, 3, 2)),
        (draw.real(2, 3, 4), draw.real(4, 2)),
        (draw.real(2, 1, 3, 4), draw.complex(5, 4, 2)),
        (draw.real(3, 4), draw.real(2, 4, 3)),
        (draw.real(2, 0), draw.real(0, 3)),
        (draw.real(2, 3, 2), draw.real(2)),
    ],
)
def matmul(x: Array, y: Array) -> Array:
    """Matrix product over the last two axes, as `np.matmul` (1-d operands, broadcast batches)."""
    if x.ndim > 2 and y.ndim == 2 and x.flags.c_contiguous:
        rows = math.prod(x.shape[:-1])  # one large product instead of one per batch entry
        return (x.reshape(rows, x.shape[-1]) @ y).reshape(*x.shape[:-1], y.shape[-1])
    return np.asarray(np.matmul(x, y))


def _pull_left(g: Any, x: Any, y: Any) -> Any:
    y = bar(y)
    if y.ndim == 1:
        return multiply(expand_dims(g, axis=-1), y)
    if x.ndim == 1:
        return squeeze(matmul(y, expand_dims(g, axis=-1)), axis=-1)
    return matmul(g, swapaxes(y, axis1=-2, axis2=-1))


def _pull_right(g: Any, x: Any, y: Any) -> Any:
    x = bar(x)
    if x.ndim == 1:
        return multiply(expand_dims(x, axis=-1), expand_dims(g, axis=-2)) if y.ndim > 1 else multiply(x, g)
    if y.ndim == 1:
        return squeeze(matmul(swapaxes(x, axis1=-2, axis2=-1), expand_dims(g, axis=-1)), axis=-1)
    if y.ndim == 2 and x.ndim > 2:
        rows = math.prod(x.shape[:-1])
        flat = reshape(x, shape=(rows, x.shape[-1]))
        return matmul(transpose(flat), reshape(g, shape=(rows, g.shape[-1])))
    return matmul(swapaxes(x, axis1=-2, axis2=-1), g)


matmul.vjp(x=lambda g, out, x, y: _pull_left(g, x, y), y=lambda g, out, x, y: _pull_right(g, x, y))
matmul.jvp(x="linear", y="linear")


@derived
def outer(x: Any, y: Any) -> Any:
    """x[i] * y[j] of two vectors (flattened)."""
    return multiply(reshape(x, shape=(-1, 1)), reshape(y, shape=(1, -1)))


OPTIMISE_FROM = 1 << 14
"""Index-space size from which looking for an order of contraction pays."""


@primitive(
    analytic=True,
    sequence="operands",
    samples=lambda draw: [
        (([draw.real(3, 4), draw.real(4, 2)],), {"subscripts": "ij,jk->ik"}),
        (([draw.complex(3), draw.real(2, 3), draw.real(2, 4)],), {"subscripts": "a,ba,bc->ca"}),
        (([draw.real(2, 3)],), {"subscripts": "ij->ji"}),
        (([draw.real(2, 3), draw.real(2, 3)],), {"subscripts": "ij,ij->"}),
    ],
)
def contract(operands: list[Array], *, subscripts: str) -> Array:
    """einsum in explicit form, no letter twice in an operand, each in another operand or the result."""
    left, _ = subscripts.split("->")
    lengths: dict[str, int] = {}
    for letters, operand in zip(left.split(","), operands):
        lengths.update(
            (letter, n) for letter, n in zip(letters, operand.shape) if lengths.get(letter, 1) == 1
        )
    optimise = len(operands) > 1 and math.prod(lengths.values()) >= OPTIMISE_FROM
    return np.array(np.einsum(subscripts, *operands, optimize=optimise))


def _pull_operands(g: Any, operands: Sequence[Any], subscripts: str) -> list[Any]:
    left, result = subscripts.split("->")
    letters = left.split(",")
    pulled: list[Any] = []
    for i, mine in enumerate(letters):
        others = [o for k, o in enumerate(operands) if k != i]
        inputs = ",".join([result, *(s for k, s in enumerate(letters) if k != i)])
        pulled.append(contract([g, *map(bar, others)], subscripts=f"{inputs}->{mine}"))
    return pulled


def _push_operands(tangents: Sequence[Any], operands: Sequence[Any], subscripts: str) -> Any:
    total: Any = None
    for i, tangent in enumerate(tangents):
        if tangent is not None:
            moved = contract([*operands[:i], tangent, *operands[i + 1 :]], subscripts=subscripts)
            total = moved if total is None else total + moved
    return total


contract.vjp(operands=lambda g, out, operands, *, subscripts: _pull_operands(g, operands, subscripts))
contract.jvp(operands=lambda ds, out, operands, *, subscripts: _push_operands(ds, operands, subscripts))


@derived
def einsum(subscripts: str, *operands: Any) -> Any:
    """Einstein summation: implicit and explicit form, ellipsis, repeated letters."""
    tensors = [o if isinstance(o, Tensor) else Tensor(o) for o in operands]
    inputs, result = _explicit(subscripts, tensors)
    for i, letters in enumerate(inputs):
        tensor = tensors[i]
        while len(set(letters)) < len(letters):  # a repeated letter reads a diagonal
            twice = next(c for c in letters if letters.count(c) > 1)
            first, second = [k for k, c in enumerate(letters) if c == twice][:2]
            tensor = diagonal(tensor, axis1=first, axis2=second)
            letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + twice
        elsewhere = result + "".join(inputs[:i] + inputs[i + 1 :])
        alone = tuple(k for k, c in enumerate(letters) if c not in elsewhere)
        if alone:  # a letter of this operand only is a plain sum
            tensor = sum_over(tensor, axis=alone)
            letters = "".join(c for c in letters if c in elsewhere)
        tensors[i], inputs[i] = tensor, letters
    return contract(tensors, subscripts=f"{','.join(inputs)}->{result}")


def _explicit(subscripts: str, tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """Letters of every operand and of the result, with ellipses written out."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(tensors):
        raise ValueError(
            f"einsum {subscripts!r} failed: it names {len(inputs)} operands and got {len(tensors)}. Every operand "
            f"has its letters. Pass as many."
        )
    spare = [c for c in string.ascii_letters if c not in subscripts]
    widths = [t.ndim - len(s.replace("...", "")) for s, t in zip(inputs, tensors)]
    widest = max((w for s, w in zip(inputs, widths) if "..." in s), default=0)
    ellipsis = "".join(spare[:widest])
    for i, (letters, width) in enumerate(zip(inputs, widths)):
        if width < 0 or (width and "..." not in letters):
            raise ValueError(
                f"einsum {subscripts!r} failed: operand {i} has shape {tensors[i].shape} and letters {letters!r}. "
                f"Every axis has one letter. Correct the subscripts."
            )
        inputs[i] = letters.replace("...", ellipsis[widest - width :] if width else "")
    if not arrow:
        named = "".join(inputs)
        result = ellipsis + "".join(
            sorted(c for c in set(named) if named.count(c) == 1 and c not in ellipsis)
        )
    return inputs, result.replace("...", ellipsis)
