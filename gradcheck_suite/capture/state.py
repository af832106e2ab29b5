"""Leaving nothing changed: the state of a model, its inputs and the process, put back bit for bit."""

from __future__ import annotations

import functools
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import ModelError

__all__ = ["RandomState", "Snapshot", "preserved", "rng_frozen", "snapshot"]

# Containers are followed by exact type: a subclass may mean something else by "clear" or "append".
_MAPPINGS: tuple[type, ...] = (dict, OrderedDict, defaultdict)
_SEQUENCES: tuple[type, ...] = (list, deque)
# Up to this many bytes, comparing contents costs less than it is worth to trust a version counter.
_SMALL = 1 << 16
_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_MISSING = object()


def _cuda_is_initialized() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class RandomState:
    """The state of every global random number generator: torch (CPU, CUDA, MPS), NumPy, Python."""

    def __init__(self) -> None:
        self._torch = torch.default_generator.get_state()
        # Asking an uninitialised CUDA for its state would initialise it: a change in itself.
        self._cuda = torch.cuda.get_rng_state_all() if _cuda_is_initialized() else []
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self._numpy = np.random.get_state()
        self._python = random.getstate()

    def restore(self) -> None:
        """Put every generator back to where it was."""
        torch.default_generator.set_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


@contextmanager
def rng_frozen(seed: int) -> Iterator[None]:
    """Set every random number generator to ``seed`` inside, and put them back afterwards.

    ``torch.manual_seed`` is not used: before CUDA is initialised it leaves a seed for later behind.
    """
    state = RandomState()
    try:
        torch.default_generator.manual_seed(seed)
        if _cuda_is_initialized():
            torch.cuda.manual_seed_all(seed)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        state.restore()


class _Modes:
    """Process-wide switches of torch that code inside a check may leave changed."""

    def __init__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.dtype = torch.get_default_dtype()
        self.anomaly = (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
        self.deterministic = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        self.autocast = {
            device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
            for device in ("cpu", "cuda")
        }
        self.autocast_cache = torch.is_autocast_cache_enabled()

    def restore(self) -> None:
        torch.set_grad_enabled(self.grad)
        if torch.get_default_dtype() is not self.dtype:
            torch.set_default_dtype(self.dtype)
        if (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()) != self.anomaly:
            torch.autograd.set_detect_anomaly(*self.anomaly)
        now = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if now != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic[0], warn_only=self.deterministic[1])
        for device, (enabled, dtype) in self.autocast.items():
            if torch.is_autocast_enabled(device) != enabled:
                torch.set_autocast_enabled(device, enabled)
            if torch.get_autocast_dtype(device) is not dtype:
                torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of the stored bits: NaN equals itself and -0.0 differs from 0.0."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    kind = _INTEGER_OF_SIZE[a.element_size()]
    return torch.equal(a.view(kind), b.view(kind))


class _TensorRecord:
    """One tensor: the memory it pointed to, that memory's contents, and what autograd keeps with it.

    Contents are taken as the one-dimensional stretch of memory between its first and last element: expanded
    tensors cost what they occupy, and a small view of a large data set does not copy the data set.
    """

    __slots__ = (
        "alias",
        "contents",
        "grad",
        "hooks",
        "leaf",
        "requires_grad",
        "sly",
        "stretch",
        "tensor",
        "version",
    )

    def __init__(self, tensor: Tensor, contents: bool = True) -> None:
        self.tensor = tensor
        self.sly = False
        self.requires_grad = tensor.requires_grad
        self.leaf = tensor.is_leaf
        self.grad = tensor.grad if tensor.is_leaf or tensor.retains_grad else None
        self.hooks = tuple(
            (name, value, None if value is None else OrderedDict(value))
            for name in ("_backward_hooks", "_post_accumulate_grad_hooks")
            for value in (getattr(tensor, name, None),)
        )
        self.version = None if tensor.is_inference() else tensor._version
        self.alias = tensor.data
        self.stretch: Tensor | None = None
        self.contents: Tensor | None = None
        if tensor.device.type == "meta" or not contents:
            return
        if tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized:
            extent = 0
            if tensor.numel():
                extent = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
            self.stretch = self.alias.as_strided((extent,), (1,), tensor.storage_offset())
            self.contents = self.stretch.clone()
        else:
            self.contents = self.alias.clone()

    def restore(self, quick: bool = False) -> None:
        tensor, alias = self.tensor, self.alias
        strided = self.stretch is not None or (self.contents is None and tensor.layout is torch.strided)
        if strided:
            moved = (
                tensor.dtype is not alias.dtype
                or tensor.device != alias.device
                or tensor.shape != alias.shape
                or tensor.stride() != alias.stride()
                or tensor.data_ptr() != alias.data_ptr()
            )
            if moved:
                tensor.data = alias
            if self.stretch is not None and not (quick and not moved and self._surely_unchanged()):
                self._restore_contents()
        elif self.contents is not None:
            tensor.data = self.contents.clone()
        if self.leaf and not tensor.is_leaf:
            # An in-place write of a tracked value turned a buffer into a node of a graph.
            tensor.detach_()
        if tensor.is_leaf and tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if self.leaf and tensor.grad is not self.grad:
            tensor.grad = self.grad
        for name, hooks, content in self.hooks:
            if getattr(tensor, name, None) is not hooks:
                setattr(tensor, name, hooks)
            if hooks is not None and content is not None and hooks != content:
                _restore_mapping(hooks, content)
        if self.version is not None and tensor._version != self.version:
            # The bits are the same as before: a graph that saved this tensor before the check is still right.
            torch._C._autograd._unsafe_set_version_counter((tensor,), (self.version,))

    def _surely_unchanged(self) -> bool:
        """By its version, which counts no writes through ``.data``: small tensors and former offenders are compared."""
        assert self.stretch is not None
        if self.sly or self.stretch.nbytes <= _SMALL:
            return False
        return self.version is not None and self.tensor._version == self.version

    def _restore_contents(self) -> None:
        assert self.stretch is not None
        assert self.contents is not None
        # Written only where needed: the memory may be mapped read-only or shared with other processes.
        if self.stretch.is_conj() or self.stretch.is_neg() or not _same_bits(self.stretch, self.contents):
            self.sly = self.version is None or self.tensor._version == self.version
            with torch.inference_mode(self.tensor.is_inference()):
                self.stretch.copy_(self.contents)


def _restore_mapping(mapping: dict[Any, Any], saved: dict[Any, Any]) -> None:
    same_keys = len(mapping) == len(saved) and all(map(is_, mapping, saved))
    if same_keys and all(map(is_, mapping.values(), saved.values())):
        return
    for key in [key for key in mapping if key not in saved]:
        del mapping[key]
    for key, value in saved.items():
        if mapping.get(key, _MISSING) is not value:
            mapping[key] = value
    if any(a is not b for a, b in zip(mapping, saved)):
        mapping.clear()
        mapping.update(saved)


def _restore_sequence(sequence: Any, saved: list[Any]) -> None:
    if len(sequence) != len(saved) or any(a is not b for a, b in zip(sequence, saved)):
        sequence.clear()
        sequence.extend(saved)


def _restore_set(values: set[Any], saved: set[Any]) -> None:
    if values != saved:
        values.clear()
        values.update(saved)


def _owned(function: object) -> list[object]:
    """What a callable that is no module owns: a partial's arguments, a method's object, closure cells."""
    if isinstance(function, functools.partial):
        return [function.func, *function.args, *function.keywords.values()]
    if isinstance(function, types.MethodType):
        owner = function.__self__
        return [owner] if isinstance(owner, nn.Module) else [getattr(owner, "__dict__", None)]
    if isinstance(function, types.FunctionType):
        cells = function.__closure__ or ()
        found: list[object] = []
        for cell in cells:
            try:
                content = cell.cell_contents
            except ValueError:  # a variable that is not bound yet
                continue
            if isinstance(content, (Tensor, nn.Module)):
                found.append(content)
        return found
    if callable(function) and not isinstance(function, type):
        return [getattr(function, "__dict__", None)]
    return []


class Snapshot:
    """The state of a model and of tensors at one moment; :meth:`restore` may be called any number of times.

    Saved: every tensor that the model's modules hold (parameters, buffers, plain attributes, also inside
        lists and
    dicts), with contents, memory, ``.grad``, ``requires_grad`` and hooks; the modules' attributes and
    registries, so that the same objects are back in the same places; random generators, those of the process
    and those that modules hold; the modes of torch. Of a plain function only closure cells, arguments of a
    ``functools.partial`` and the object of a bound method are searched.

    Not restored: the ``grad_fn`` of a tensor that was no leaf, and tensors reached only through globals.

    Args:
        model: a module, a callable, or None.
        tensors: further tensors, or any nesting of tuples, lists and dicts of them.
        elsewhere: tensors whose contents the caller keeps and puts back itself; all else about them is saved.

    Raises:
        ModelError: a parameter of a lazy module is not initialised yet; its contents cannot be put back.
    """

    def __init__(self, model: object, *tensors: object, elsewhere: Iterable[Tensor] = ()) -> None:
        self._elsewhere = {id(tensor) for tensor in elsewhere}
        self._tensors: list[_TensorRecord] = []
        self._mappings: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._sequences: list[tuple[Any, list[Any]]] = []
        self._sets: list[tuple[set[Any], set[Any]]] = []
        self._generators: list[tuple[Any, Any]] = []
        self._walk([*tensors, model], model)
        self._modes = _Modes()
        self._random = RandomState()

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that was found, each once."""
        return [record.tensor for record in self._tensors]

    def _walk(self, stack: list[Any], root: object) -> None:
        seen: set[int] = set()
        if root is not None and not isinstance(root, nn.Module):
            stack.extend(_owned(root))
        while stack:
            item = stack.pop()
            if item is None or isinstance(item, (str, bytes, int, float)) or id(item) in seen:
                continue
            seen.add(id(item))
            kind = type(item)
            if isinstance(item, Tensor):
                if is_lazy(item):
                    raise ModelError(
                        f"saving the state of {type(root).__name__} failed: it holds an uninitialised "
                        f"{kind.__name__}. A lazy module gets its shapes in its first call, which cannot "
                        "be undone. "
                        "Call the model once on real inputs before the check."
                    )
                record = _TensorRecord(item, id(item) not in self._elsewhere)
                self._tensors.append(record)
                stack.append(record.grad)
            elif isinstance(item, nn.Module):
                stack.append(vars(item))
                if isinstance(item, torch.jit.ScriptModule):
                    stack.extend([*item.parameters(), *item.buffers()])
            elif kind in _MAPPINGS:
                self._mappings.append((item, dict(item)))
                stack.extend(item.values())
            elif kind in _SEQUENCES:
                self._sequences.append((item, list(item)))
                stack.extend(item)
            elif kind is set:
                self._sets.append((item, set(item)))
            elif isinstance(item, tuple):
                stack.extend(item)
            elif isinstance(item, torch.Generator):
                self._generators.append((item, item.get_state()))
            elif isinstance(item, np.random.Generator):
                self._generators.append((item, item.bit_generator.state))
            elif isinstance(item, np.random.RandomState):
                self._generators.append((item, item.get_state()))
            elif isinstance(item, random.Random):
                self._generators.append((item, item.getstate()))
            elif isinstance(item, (functools.partial, types.MethodType, types.FunctionType)):
                stack.extend(_owned(item))

    def restore(self, *, quick: bool = False) -> None:
        """Put everything back, bit for bit.

        Args:
            quick: trust the version counter of large tensors, except of those that a thorough restore has found
                written behind it. For restores in between; the last one must be thorough.
        """
        for mapping, content in self._mappings:
            _restore_mapping(mapping, content)
        for sequence, items in self._sequences:
            _restore_sequence(sequence, items)
        for values, members in self._sets:
            _restore_set(values, members)
        for record in self._tensors:
            record.restore(quick)
        for generator, state in self._generators:
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = state
            elif isinstance(generator, random.Random):
                generator.setstate(state)
            else:
                generator.set_state(state)
        self._modes.restore()
        self._random.restore()


def snapshot(model: object, *tensors: object) -> Snapshot:
    """Take a :class:`Snapshot`."""
    return Snapshot(model, *tensors)


@contextmanager
def preserved(model: object, *tensors: object) -> Iterator[Snapshot]:
    """Run a block and put everything back afterwards, also after an exception or Ctrl-C.

    Args:
        model: see :class:`Snapshot`.
        tensors: likewise; the user's inputs, which a model may overwrite.

    Yields:
        The snapshot, which can also be restored in between.

    Raises:
        ModelError: see :class:`Snapshot`.
    """
    taken = Snapshot(model, *tensors)
    grad = torch.is_grad_enabled()
    # The guard is what brings inference mode back when the block leaves it on; entering it switches grad
    # mode.
    with torch.inference_mode(torch.is_inference_mode_enabled()):
        torch.set_grad_enabled(grad)
        try:
            yield taken
        finally:
            taken.restore()
    torch.set_grad_enabled(grad)
