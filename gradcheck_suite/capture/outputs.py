"""What of a model's output is differentiable, and the random projection that makes a scalar of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import NothingToVerifyError

__all__ = ["describe", "differentiable_outputs", "output_tensors", "random_projection", "unusual_seed"]

# A cotangent must not underflow in half precision: no output is weighed down by more than this.
_SMALLEST_FACTOR = {torch.float16: 2.0**-8, torch.bfloat16: 2.0**-20}


def describe(tensor: Tensor) -> str:
    """Dtype and shape for people: ``float32[2, 3]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _children(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[{key!r}]", item
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field in value._fields:
            yield f"{path}.{field}", getattr(value, field)
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for member in dataclasses.fields(value):
            yield f"{path}.{member.name}", getattr(value, member.name, None)
    elif (
        hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)) and not callable(value)
    ):
        for name, item in vars(value).items():
            yield f"{path}.{name}", item


def output_tensors(output: object) -> list[tuple[str, Tensor]]:
    """Every tensor in a model's output with its path, each tensor once, in the order of the output.

    Looked through: tuples, lists, named tuples, mappings (with Hugging Face's ``ModelOutput``), dataclasses,
        and the
    attributes of other objects that are neither modules nor callables. Paths read like Python: ``output[0]``,
    ``output['logits']``, ``output.loss``.
    """
    found: list[tuple[str, Tensor]] = []
    seen: set[int] = set()
    stack: list[tuple[str, object]] = [("output", output)]
    while stack:
        path, value = stack.pop()
        if value is None or isinstance(value, (str, bytes, int, float, complex)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found.append((path, value))
        else:
            stack.extend(reversed(list(_children(path, value))))
    return found


def _obstacle(tensor: Tensor) -> str:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return "its dtype has no gradient"
    if tensor.numel() == 0:
        return "it has no elements"
    if tensor.is_inference():
        return "it was made in inference mode"
    return (
        "requires_grad is False: it was detached, made under no_grad, or made of nothing that requires grad"
    )


def differentiable_outputs(output: object) -> list[tuple[str, Tensor]]:
    """The tensors of a model's output that autograd can differentiate, with their paths.

    Returns:
        (path, tensor) for every floating or complex tensor with ``requires_grad`` and at least one element;
        see :func:`output_tensors` for what is looked through.

    Raises:
        NothingToVerifyError: there is none; the message lists every tensor and its obstacle.
    """
    tensors = output_tensors(output)
    found = [
        (path, tensor)
        for path, tensor in tensors
        if tensor.requires_grad and tensor.numel() and (tensor.is_floating_point() or tensor.is_complex())
    ]
    if found:
        return found
    attempt = "looking for a differentiable output failed"
    if not tensors:
        raise NothingToVerifyError(
            f"{attempt}: the output is of type {type(output).__name__} and holds no tensor. "
            "Without a tensor there is no gradient to verify. "
            "Return a tensor, or a tuple, list, dict or dataclass of tensors, from the model or the loss."
        )
    facts = "; ".join(f"{path} is {describe(tensor)}: {_obstacle(tensor)}" for path, tensor in tensors[:8])
    more = f"; and {len(tensors) - 8} more" if len(tensors) > 8 else ""
    why = (
        "Gradient mode is off where the check runs. "
        if not torch.is_grad_enabled()
        else "Autograd sees no path from any parameter or input to the output. "
    )
    raise NothingToVerifyError(
        f"{attempt}: {facts}{more}. {why}"
        "Look for detach(), .data, .item(), no_grad or argmax between the inputs and the output, and make "
        "sure that a parameter or an input requires grad."
    )


def _magnitude(tensor: Tensor) -> float:
    """Norm of the finite entries."""
    values = tensor.detach()
    if values.layout is not torch.strided:
        values = values.to_dense()
    values = values.abs().to(torch.float64)
    values = torch.where(torch.isfinite(values), values, torch.zeros_like(values))
    largest = float(values.max())
    return largest * float((values / largest).norm()) if largest > 0 else 0.0


def unusual_seed(seed: int) -> int:
    """Another seed: a user's ``torch.manual_seed(0); torch.randn(...)`` must not be the very cotangent of a check."""
    return (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**63


def random_projection(outputs: Sequence[tuple[str, Tensor]], seed: int) -> list[Tensor]:
    """One random cotangent per output: the sum of their inner products is a loss that sees every element.

    Entries are standard normal (complex normal for complex outputs), drawn in float64 on the CPU so that
    dtype and device do not change the numbers. With several outputs, those of larger norm are weighed down by
    a power of two, so that every output contributes alike.

    Args:
        outputs: (path, tensor) as from :func:`differentiable_outputs`.
        seed: of the draw.

    Returns:
        Tensors of the outputs' shapes, dtypes and devices.
    """
    generator = torch.Generator().manual_seed(unusual_seed(seed))
    norms = [_magnitude(tensor) for _, tensor in outputs]
    positive = [norm for norm in norms if norm > 0]
    smallest = min(positive, default=1.0)
    cotangents = []
    for (_, tensor), norm in zip(outputs, norms):
        factor = 2.0 ** round(math.log2(smallest / norm)) if norm > 0 else 1.0
        factor = max(factor, _SMALLEST_FACTOR.get(tensor.dtype, 0.0))
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        draw = torch.randn(tensor.shape, generator=generator, dtype=wide)
        if tensor.layout is not torch.strided:  # what is not stored is no output
            draw = draw * (tensor.detach().to_dense() != 0).cpu()
        cotangents.append((draw * factor).to(device=tensor.device, dtype=tensor.dtype))
    return cotangents
