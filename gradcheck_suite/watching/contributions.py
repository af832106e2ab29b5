"""What every parameter's ``.grad`` is made of: which backwards contributed to it, and which of that was used already.

A gradient is recognised by identity and version, never kept: between two looks it may have been set to None, zeroed,
replaced, or written to. Writes are seen by the session's recorder. What cannot be explained is taken for innocent: the
leaf becomes *opaque*, and nothing is said about it until it is cleared.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..capture.identity import _storage_address
from ..evidence import Location

__all__ = ["Contributions", "Facts", "Leaf", "Moment"]

# In-place operations that leave a gradient what it is, up to a factor, a bound or a mask.
_SHAPING = frozenset(
    f"aten::{name}_"
    for name in (
        "mul",
        "div",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clip",
        "nan_to_num",
        "masked_fill",
        "index_fill",
        "index_put",
        "_foreach_mul",
        "_foreach_div",
        "_foreach_clamp_min",
        "_foreach_clamp_max",
    )
) | {"aten::_amp_foreach_non_finite_check_and_unscale_", "aten::_index_put_impl_"}
_CLEARING = frozenset(("aten::zero_", "aten::_foreach_zero_", "aten::fill_", "aten::copy_"))
_ADDING = frozenset(("aten::add_", "aten::_foreach_add_"))
# They declare that they write to the gradients (they unscale them), and step with what is in them.
_FUSED = "aten::_fused_"
_MOST_LOOKS = 3
_MOST_WAITING = 20_000
_MOST_GONE = 2_000


@dataclass(eq=False, slots=True)
class Moment:
    """A backward, a step or a clearing: when, where, and what it is called.

    Attributes:
        stepped: of a backward: an optimizer has stepped a leaf that it contributed to.
    """

    number: int
    location: Location | None
    what: str
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a leaf is called and where it belongs.

    Attributes:
        name: its own.
        elements: how many it has.
        roots: numbers of the models that it is registered in.
        training: those models are in training mode.
        parameter: it is an ``nn.Parameter``.
        held: some optimizer held it when this was noted.
    """

    name: str
    elements: int
    roots: tuple[int, ...]
    training: bool
    parameter: bool
    held: bool


@dataclass(eq=False, slots=True)
class Leaf:
    """A leaf tensor that backwards have contributed to.

    Attributes:
        fresh: the first backward whose contribution nobody has used yet.
        waiting: the first backward whose contribution no optimizer has used yet; by hand it may have been.
        fresh_count: how many backwards have contributed since.
        used: the backward and the optimizer step of a contribution that was used and is in ``.grad`` still.
        used_by_hand: likewise, used by a hand-written update.
        lost: the backward whose contribution was cleared before anybody used it, and the clearing.
        zeroed: ``.grad`` is known to be zero.
        stepped: an optimizer has stepped it.
        by_hand: it was updated by hand.
        beside: how many backwards contributed to it and to others that were stepped then.
        changed: it was written to, outside any optimizer.
        moved: the memory that it was given since its last backward (``p.data = ...``), 0 if none.
        facts: what is to be said of it when it is gone.
    """

    tensor: weakref.ref[torch.Tensor]
    grad: weakref.ref[torch.Tensor] | None = None
    version: int = 0
    memory: int = 0
    own_memory: int = 0
    moved: int = 0
    written: bool = False
    fresh: Moment | None = None
    waiting: Moment | None = None
    fresh_count: int = 0
    used: tuple[Moment, Moment] | None = None
    used_by_hand: tuple[Moment, Moment] | None = None
    lost: tuple[Moment, Moment] | None = None
    zeroed: bool = False
    stepped: bool = False
    by_hand: bool = False
    looks: int = 0
    backwards: int = 0
    last_backward: Moment | None = None
    beside: int = 0
    changed: bool = False
    facts: Facts | None = None

    def clear(self) -> None:
        """Nothing of any backward is in ``.grad``, as far as is known."""
        self.fresh, self.fresh_count, self.used, self.used_by_hand, self.zeroed = None, 0, None, None, False
        self.waiting = None

    def use(self, step: Moment) -> None:
        """An optimizer step has used what was fresh."""
        if self.waiting is not None:
            self.used = (self.waiting, step)
        self.waiting = None
        self.fresh, self.fresh_count, self.used_by_hand, self.lost = None, 0, None, None
        self.note_step()

    def note_step(self) -> None:
        """An optimizer that holds it has stepped."""
        self.stepped = True
        if self.last_backward is not None:
            self.last_backward.stepped = True


Token = Sequence[tuple[Leaf, int, int]]


class Contributions:
    """Follows the leaves that backwards have reached; see the module's docstring.

    Args:
        carries: whether what lives in this memory was computed from some gradient, by hand.
    """

    def __init__(self, carries: Callable[[int], bool] = lambda memory: False) -> None:
        self._carries = carries
        self._leaves: dict[int, Leaf] = {}
        self._by_grad: dict[int, Leaf] = {}
        self._by_memory: dict[int, Leaf] = {}
        self._clearing: Moment | None = None
        self.came_again: list[Leaf] = []
        self.gone: list[Leaf] = []
        self.trained: set[int] = set()  # models of which a leaf that is gone was stepped

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Leaf]]:
        for leaf in list(self._leaves.values()):
            tensor = leaf.tensor()
            if tensor is not None:
                yield tensor, leaf

    def of(self, tensor: torch.Tensor) -> Leaf | None:
        """What is known of this tensor, brought up to date; None if no backward has reached it."""
        leaf = self._leaves.get(id(tensor))
        if leaf is None or leaf.tensor() is not tensor:
            return None
        self._look(leaf, tensor)
        return leaf

    # -- backwards -----------------------------------------------------------------------------------------------

    def before_backward(self, tensors: Iterable[torch.Tensor]) -> Token:
        """A backward that adds to the ``.grad`` of these leaves begins."""
        token = []
        for tensor in tensors:
            if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
                continue
            leaf = self._leaf(tensor)
            grad = self._look(leaf, tensor)
            if grad is not None and (leaf.used or leaf.used_by_hand) and leaf.looks < _MOST_LOOKS:
                # Zeroed behind everybody's back (through NumPy, by a compiled kernel) is zeroed too.
                leaf.looks += 1
                if not _has_values(grad):
                    leaf.clear()
            token.append((leaf, id(grad) if grad is not None else 0, 0 if grad is None else grad._version))
        return token

    def after_backward(self, token: Token, moment: Moment, *, create_graph: bool) -> int:
        """It has ended; returns the number of leaves that got a contribution."""
        reached = 0
        for leaf, identity, version in token:
            tensor = leaf.tensor()
            grad = None if tensor is None else tensor.grad
            if grad is None or tensor is None:
                if tensor is not None:
                    self._look(leaf, tensor)
                continue
            if id(grad) == identity and grad._version == version:
                continue
            reached += 1
            replaced = identity != 0 and id(grad) != identity
            meddled = leaf.zeroed and leaf.written  # a hook has zeroed it
            self._adopt(leaf, grad)
            leaf.own_memory = self._note_memory(leaf, tensor)
            if meddled or (replaced and not create_graph and grad.layout is torch.strided):
                leaf.clear()
                continue
            if identity == 0:
                leaf.clear()
            leaf.zeroed = False
            leaf.lost = None
            leaf.fresh = leaf.fresh or moment
            leaf.waiting = leaf.waiting or moment
            leaf.fresh_count += 1
            leaf.backwards += 1
            if leaf.last_backward is not None and leaf.last_backward.stepped:
                leaf.beside += 1
            leaf.last_backward = moment
            if leaf.backwards == 2 and len(self.came_again) < _MOST_WAITING:
                self.came_again.append(leaf)
        return reached

    def forget(self, token: Token) -> None:
        """The backward raised, or an optimizer stepped inside it: what is in ``.grad`` now is not known."""
        for leaf, _, _ in token:
            tensor = leaf.tensor()
            if tensor is not None:
                self._look(leaf, tensor)
            leaf.clear()
            leaf.lost = None

    # -- clearing and writing ------------------------------------------------------------------------------------

    def zeroing(self, tensors: Iterable[torch.Tensor], moment: Moment) -> Callable[[], None]:
        """``zero_grad`` of these, which were just looked at, begins; call what is returned when it has ended."""
        concerned = list(tensors)
        self._clearing = moment

        def ended() -> None:
            for tensor in concerned:
                self.of(tensor)
            self._clearing = None

        return ended

    def holder_of(self, memory: int) -> Leaf | None:
        """The leaf whose ``.grad`` lives in this memory."""
        leaf = self._by_grad.get(memory)
        return (
            leaf
            if leaf is not None and leaf.memory == memory and leaf.grad and leaf.grad() is not None
            else None
        )

    def knows(self, memory: int) -> bool:
        """Whether a leaf or its ``.grad`` may live in this memory."""
        return memory in self._by_memory or memory in self._by_grad

    def owner_of(self, memory: int) -> Leaf | None:
        """The leaf that lives in this memory itself."""
        leaf = self._by_memory.get(memory)
        if leaf is None or memory not in (leaf.own_memory, leaf.moved):
            return None
        return leaf if leaf.tensor() is not None else None

    def locate(self, leaf: Leaf, tensor: torch.Tensor) -> None:
        """What is written to a leaf from now on may be written to memory that it was given since its last backward."""
        if tensor.layout is torch.strided:
            memory = _storage_address(tensor)
            if memory not in (leaf.own_memory, leaf.moved):
                self._forget_moved(leaf)
                leaf.moved = memory
                self._by_memory[memory] = leaf

    def _forget_moved(self, leaf: Leaf) -> None:
        if leaf.moved and self._by_memory.get(leaf.moved) is leaf:
            del self._by_memory[leaf.moved]
        leaf.moved = 0

    def grad_written(
        self,
        leaf: Leaf,
        op: str,
        target: torch.Tensor,
        factor: Any,
        moment: Callable[[], Moment],
        *,
        from_gradient: bool = False,
    ) -> None:
        """An operation has written into the ``.grad`` of a leaf, outside any backward.

        Args:
            op: name of the operation.
            target: what it wrote into: the gradient or a part of it.
            factor: its second argument.
            moment: makes the moment, if it is needed.
            from_gradient: what it wrote was computed from some gradient.
        """
        grad = leaf.grad() if leaf.grad is not None else None
        whole = grad is not None and target.numel() == grad.numel()
        by_zero = op == "aten::mul_" and isinstance(factor, int | float) and factor == 0
        leaf.written = True
        if op.startswith(_FUSED):
            return
        if op in _ADDING and leaf.fresh is not None and not from_gradient:
            return  # noise, weight decay: the contributions are in there still
        if whole and from_gradient and op == "aten::copy_" and leaf.fresh is not None:
            leaf.used = leaf.used_by_hand = None  # worked on, and put back
        elif whole and (op in _CLEARING or by_zero):
            self._cleared(leaf, self._clearing or moment())
            leaf.zeroed = op != "aten::copy_"
        elif leaf.fresh is None or (whole and op not in _SHAPING):
            # Whoever works on a used gradient before the next backward, or subtracts from it, knows that it is there.
            leaf.used = leaf.used_by_hand = None

    def has_gradients(self) -> bool:
        """Whether any leaf holds a gradient that a backward has contributed to."""
        return any(leaf.fresh or leaf.used or leaf.used_by_hand for leaf in self._leaves.values())

    # -- looking -------------------------------------------------------------------------------------------------

    def _leaf(self, tensor: torch.Tensor) -> Leaf:
        key = id(tensor)
        leaf = self._leaves.get(key)
        if leaf is None or leaf.tensor() is not tensor:
            leaves = self._leaves

            def forget(_: object) -> None:
                if key in leaves and leaves[key].tensor() is None:
                    gone = leaves.pop(key)
                    self._has_gone(gone)
                    self._forget_moved(gone)
                    for index, memory in ((self._by_grad, gone.memory), (self._by_memory, gone.own_memory)):
                        if index.get(memory) is gone:
                            del index[memory]

            leaf = leaves[key] = Leaf(weakref.ref(tensor, forget))
            if tensor.grad is not None:
                self._adopt(leaf, tensor.grad)
        return leaf

    def _has_gone(self, leaf: Leaf) -> None:
        if leaf.grad is None or leaf.grad() is None:
            leaf.fresh, leaf.fresh_count = None, 0  # it was cleared since
        if leaf.facts is None:
            return
        if leaf.stepped:
            self.trained.update(leaf.facts.roots[: _MOST_GONE - len(self.trained)])
        if (leaf.fresh_count >= 2 or not leaf.stepped) and len(self.gone) < _MOST_GONE:
            self.gone.append(leaf)

    def _look(self, leaf: Leaf, tensor: torch.Tensor) -> torch.Tensor | None:
        """Explain what has happened to ``.grad`` since the last look."""
        grad = tensor.grad
        if grad is None:
            if leaf.grad is not None:
                self._cleared(leaf, self._clearing or Moment(0, None, ".grad = None"))
                leaf.grad = None
        elif leaf.grad is None or leaf.grad() is not grad:
            # Somebody assigned it. What was computed from a gradient is one still, and is there to be used.
            if leaf.fresh is None or grad.layout is not torch.strided or not self._is_computed(grad):
                leaf.clear()
            leaf.used = leaf.used_by_hand = leaf.lost = None
            self._adopt(leaf, grad)
        elif grad._version != leaf.version:
            if not leaf.written:
                leaf.clear()
                leaf.lost = None
            self._adopt(leaf, grad)
        leaf.written = False
        return grad

    def _is_computed(self, grad: torch.Tensor) -> bool:
        return self._carries(_storage_address(grad))

    def _adopt(self, leaf: Leaf, grad: torch.Tensor) -> None:
        leaf.grad = weakref.ref(grad)
        leaf.version = grad._version
        leaf.written = False
        if grad.layout is torch.strided:
            memory = _storage_address(grad)
            if memory != leaf.memory:
                if self._by_grad.get(leaf.memory) is leaf:
                    del self._by_grad[leaf.memory]
                leaf.memory = memory
            self._by_grad[memory] = leaf

    def _note_memory(self, leaf: Leaf, tensor: torch.Tensor) -> int:
        if tensor.layout is not torch.strided:
            return 0
        memory: int = _storage_address(tensor)
        self._forget_moved(leaf)
        if memory != leaf.own_memory and self._by_memory.get(leaf.own_memory) is leaf:
            del self._by_memory[leaf.own_memory]
        self._by_memory[memory] = leaf
        return memory

    def _cleared(self, leaf: Leaf, moment: Moment) -> None:
        if leaf.fresh is not None:
            leaf.lost = (leaf.fresh, moment)
        leaf.clear()


def _has_values(grad: torch.Tensor) -> bool:
    if grad.layout is not torch.strided or grad.is_meta:
        return True
    with _disable_current_modes(), torch.no_grad():
        return bool(grad.any())
