"""What becomes of an output that was computed without gradients: whether it is compared with targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..capture.identity import _storage_address
from ..capture.traits import tensors_of

__all__ = ["Evaluations"]

_MOST = 64
_LOSSES = frozenset(
    f"aten::{name}"
    for name in (
        "nll_loss_forward",
        "nll_loss2d_forward",
        # Inference mode leaves composite operations whole.
        "cross_entropy_loss",
        "nll_loss_nd",
        "nll_loss",
        "l1_loss",
        "kl_div",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "mse_loss",
        "smooth_l1_loss",
        "huber_loss",
        "multi_margin_loss",
        "soft_margin_loss",
    )
)


class Evaluations:
    """Follows marked tensors through the operations that run without gradients, for as long as there are any."""

    def __init__(self) -> None:
        self._memories: OrderedDict[int, tuple[StorageWeakRef, Any]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._memories)

    def mark(self, output: Any, what: Any) -> None:
        """Follow the tensors of ``output``."""
        values = output.values() if isinstance(output, dict) else output
        for tensor in tensors_of(values if isinstance(values, list | tuple) else (values,)):
            self._add(tensor, what)

    def operation(self, name: str, args: Any, out: Any, compared: Callable[[Any], None]) -> None:
        """An operation ran without gradients.

        Args:
            name: without the overload.
            args: what it was called with.
            out: its result.
            compared: called with what the marked tensor was marked with, if this compares it with targets.
        """
        for tensor in tensors_of(args):
            what = self._get(tensor)
            if what is None:
                continue
            chosen = not tensor.dtype.is_floating_point
            if name in _LOSSES or (name in ("aten::eq", "aten::ne") and chosen and _is_tensor(args, 1)):
                self._memories.clear()
                compared(what)
                return
            for made in tensors_of(out if isinstance(out, list | tuple) else (out,)):
                self._add(made, what)
            return

    def used_in_a_graph(self) -> None:
        """Something that is trained was computed meanwhile: these outputs may have been made for it."""
        self._memories.clear()

    def _get(self, tensor: torch.Tensor) -> Any:
        if tensor.layout is not torch.strided:
            return None
        known = self._memories.get(_storage_address(tensor))
        return None if known is None or known[0].expired() else known[1]  # type: ignore[no-untyped-call]

    def _add(self, tensor: torch.Tensor, what: Any) -> None:
        if tensor.layout is torch.strided and not tensor.is_meta:
            storage = tensor.untyped_storage()
            self._memories[storage._cdata] = (StorageWeakRef(storage), what)  # type: ignore[no-untyped-call]
            if len(self._memories) > _MOST:
                self._memories.popitem(last=False)


def _is_tensor(args: Any, position: int) -> bool:
    return len(args) > position and isinstance(args[position], torch.Tensor)
