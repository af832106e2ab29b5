"""The call that is checked: what the user gave as inputs (or what was inferred), and leaf copies of it."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..errors import InputError, ModelError
from .inferred import Guess, infer_call, placement
from .outputs import describe

__all__ = ["PreparedCall", "ResolvedCall", "as_tensors", "is_strategy", "prepare", "resolve_inputs"]


@dataclass(frozen=True, eq=False)
class ResolvedCall:
    """What the model is called with.

    Attributes:
        args, kwargs: of the call.
        notes: what was decided about the inputs and why, for the report.
        roots: name of each positional argument, ``"inputs[0]"``; ``"inputs"`` when the whole of ``inputs`` is
            one argument that is no tensor.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    notes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """Every tensor of the call with its name; one that is passed twice comes twice."""
        found: list[tuple[str, Tensor]] = []

        def note(name: str, tensor: Tensor) -> Tensor:
            found.append((name, tensor))
            return tensor

        _rebuild(self, note)
        return found


@dataclass(frozen=True, eq=False)
class PreparedCall:
    """A call whose differentiable inputs are leaves of their own.

    Attributes:
        args, kwargs: of the call.
        leaves: the leaves that require grad, by name: ``"inputs[0]"``, ``"inputs['x']"``, ``"mask"``.
        notes: those of the resolved call and what was decided here.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: dict[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# -------------------------------------------------------------------------------------------- what was given


def _signature(model: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of what computes the output; None where Python does not know it."""
    target = model
    if isinstance(model, nn.Module):
        target = getattr(model, "_orig_mod", model).forward
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _positional(signature: inspect.Signature) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p for p in signature.parameters.values() if p.kind in kinds]


def _takes_names(signature: inspect.Signature | None, names: list[Any]) -> bool:
    if signature is None or not names or not all(isinstance(name, str) for name in names):
        return False
    known = {
        p.name
        for p in signature.parameters.values()
        if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    return all(name in known for name in names) or (anything and any(name in known for name in names))


def _draw(strategy: Any, seed: int) -> Any:
    """One example of a Hypothesis strategy: the last of a few, since the first tends to be all zeros."""
    import hypothesis

    drawn: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=8,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(example: Any) -> None:
        drawn.append(example)

    collect()
    return drawn[-1]


def is_strategy(inputs: object) -> bool:
    """Whether this is a Hypothesis strategy; imports nothing: who has one has imported Hypothesis."""
    module = sys.modules.get("hypothesis.strategies")
    return module is not None and isinstance(inputs, module.SearchStrategy)


def as_tensors(model: object, value: Any, notes: list[str]) -> Any:
    """Arrays that a callable or a strategy made, as tensors; reals take the parameters' dtype and device."""
    device, dtype = placement(model)

    def convert(item: Any) -> Any:
        if not isinstance(item, np.ndarray):
            return item
        tensor = torch.as_tensor(item)
        tensor = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        notes.append(f"a NumPy array {item.dtype}{list(item.shape)} was passed as {describe(tensor)}")
        return tensor

    return _pytree.tree_map(convert, value)


def _arrange(
    model: Callable[..., Any], inputs: Any, notes: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any], str]:
    """Positional arguments, keyword arguments and the name of a sole argument."""
    signature = _signature(model)
    if isinstance(inputs, Mapping):
        names = list(inputs)
        if _takes_names(signature, names):
            return (), dict(inputs), ""
        notes.append("the inputs are one dict: forward takes no arguments of these names")
        return (inputs,), {}, "inputs"
    if type(inputs) in (tuple, list):
        sole = signature is not None and (
            len(_positional(signature)) == 1
            and len(inputs) != 1
            and not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature.parameters.values())
        )
        if sole:
            notes.append(f"the {type(inputs).__name__} of inputs is one argument: forward takes only one")
            return (inputs,), {}, "inputs"
        return tuple(inputs), {}, ""
    return (inputs,), {}, "" if isinstance(inputs, Tensor) else "inputs"


def resolve_inputs(
    model: Callable[..., Any], inputs: Any = None, kwargs: Mapping[str, Any] | None = None, seed: int = 0
) -> ResolvedCall:
    """Decide what the model is called with.

    Args:
        model: a module or a callable.
        inputs: a tensor; a tuple or list (positional arguments; one argument when ``forward`` takes only
            one); a dict (keyword arguments when ``forward`` takes these names, else one argument); any other
            pytree (one argument); a callable ``(rng) -> inputs`` with a ``numpy.random.Generator``; a
            Hypothesis strategy; or None: then they are inferred, see
            :func:`~gradcheck_suite.capture.inferred.infer_call`.
        kwargs: keyword arguments of the call, beside ``inputs``.
        seed: of everything that is drawn here.

    Raises:
        ModelError: the model cannot be called.
        InputError: NaN or Inf in an input; an input on another device than the parameters; a sparse, nested,
            quantised or wrapper-subclass tensor; an argument given twice; inputs that cannot be inferred.
    """
    if not callable(model):
        raise ModelError(
            f"resolving the inputs failed: the model is a {type(model).__name__}, which cannot be called. "
            "A check runs model(*inputs). Pass an nn.Module or a function."
        )
    notes: list[str] = []
    given = dict(kwargs or {})
    sole = ""
    args: tuple[Any, ...]
    if inputs is None:
        signature = _signature(model)
        if signature is not None and _complete(signature, given):
            args, named = (), {}
            if not given:
                notes.append("no inputs: the function takes none")
        else:
            guess: Guess = infer_call(model, signature, given, seed)
            args, named = guess.args, guess.kwargs
            notes.extend(guess.notes)
            return _checked(model, args, named, given, notes, "")
    else:
        if is_strategy(inputs):
            inputs = as_tensors(model, _draw(inputs, seed), notes)
            notes.insert(0, f"inputs drawn from the given strategy with seed {seed}")
        elif callable(inputs) and not isinstance(inputs, (Tensor, nn.Module, Mapping, tuple, list)):
            inputs = as_tensors(model, inputs(np.random.default_rng(seed)), notes)
            notes.insert(0, f"inputs made by the given function with seed {seed}")
        args, named, sole = _arrange(model, inputs, notes)
    return _checked(model, args, named, given, notes, sole)


def _complete(signature: inspect.Signature, given: dict[str, Any]) -> bool:
    """Whether the call needs nothing beyond the given keywords."""
    try:
        signature.bind(**given)
    except TypeError:
        return False
    if given:
        return True
    # A model whose arguments are all optional still wants its usual input (Hugging Face:
    # forward(input_ids=None, ...)).
    return not signature.parameters


def _checked(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    named: dict[str, Any],
    given: dict[str, Any],
    notes: list[str],
    sole: str,
) -> ResolvedCall:
    twice = sorted(set(named) & set(given))
    if twice:
        raise InputError(
            f"resolving the inputs failed: {', '.join(twice)} came both in inputs and in kwargs. "
            "The call cannot take two values for one name. Leave it out of one of them."
        )
    roots = (sole,) if sole else tuple(f"inputs[{i}]" for i in range(len(args)))
    call = ResolvedCall(args, {**named, **given}, tuple(notes), roots)
    device = _parameter_device(model)
    for name, tensor in call.named_tensors():
        _refuse_unsupported(name, tensor)
        _refuse_nonfinite(name, tensor)
        # A CPU scalar mixes with every device.
        if device is not None and tensor.device != device and tensor.dim() > 0:
            raise InputError(
                f"resolving the inputs failed: {name} ({describe(tensor)}) is on {tensor.device}, "
                f"the parameters are on {device}. Operations cannot mix them. "
                f"Pass {name}.to({str(device)!r}) or move the model."
            )
    return call


def _parameter_device(model: object) -> torch.device | None:
    """The device of the parameters; None without any, or with several: then the model places its inputs."""
    if not isinstance(model, nn.Module):
        return None
    devices = {p.device for p in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def _refuse_unsupported(name: str, tensor: Tensor) -> None:
    if tensor.is_nested:
        kind, instead = "a nested tensor", "a padded tensor with a mask"
    elif tensor.layout is not torch.strided:
        kind, instead = f"a sparse tensor ({tensor.layout})", f"{name}.to_dense()"
    elif tensor.is_quantized:
        kind, instead = f"a quantised tensor ({tensor.dtype})", f"{name}.dequantize()"
    elif tensor.device.type == "meta":
        kind, instead = "on the meta device and has no values", "a tensor with values"
    elif (
        is_traceable_wrapper_subclass(tensor)
        or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    ):
        kind, instead = f"a {type(tensor).__name__}, a subclass that wraps other tensors", "a plain tensor"
    else:
        return
    raise InputError(
        f"resolving the inputs failed: {name} is {kind}. Its gradient cannot be compared element by element. "
        f"Pass {instead}."
    )


def _is_additive_mask(tensor: Tensor) -> bool:
    """Zeros and minus infinities only: an attention mask, whose infinities are meant."""
    return tensor.is_floating_point() and bool(((tensor == 0) | (tensor == -torch.inf)).all())


def _refuse_nonfinite(name: str, tensor: Tensor) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.element_size() == 1:
        return
    bad = ~torch.isfinite(tensor.detach())
    count = int(bad.sum())
    if count == 0 or _is_additive_mask(tensor.detach()):
        return
    where = tuple(int(i) for i in bad.nonzero()[0])
    value = tensor.detach()[where].item()
    raise InputError(
        f"resolving the inputs failed: {name} ({describe(tensor)}) has {count} of {tensor.numel()} elements that "
        f"are NaN or infinite, the first at {list(where)}: {value}. No gradient can be judged through them. "
        "Pass finite inputs; to find where a NaN comes from, run the code under gradcheck_suite.watch()."
    )


# ----------------------------------------------------------------------------------------------- leaf copies

_Change = Callable[[str, Tensor], Any]

# A slice deep inside a large data set must not cost a copy of the data set.
_FARTHEST = 4096


def _rebuild(call: ResolvedCall, change: _Change) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call with every tensor replaced by ``change(name, tensor)``."""
    args = tuple(_replace(root, value, change) for root, value in zip(call.roots, call.args))
    return args, {name: _replace(name, value, change) for name, value in call.kwargs.items()}


def _replace(root: str, value: Any, change: _Change) -> Any:
    """Any pytree, and beyond it other mappings and dataclasses, whose type and other attributes are kept."""
    flat, spec = _pytree.tree_flatten_with_path(value)
    return _pytree.tree_unflatten(
        [_replace_leaf(root + _pytree.keystr(path), x, change) for path, x in flat], spec
    )


def _replace_leaf(name: str, item: Any, change: _Change) -> Any:
    if isinstance(item, Tensor):
        return change(name, item)
    if isinstance(item, Mapping) and isinstance(getattr(item, "data", None), dict):  # UserDict, BatchEncoding
        mapping: Any = copy.copy(item)
        mapping.data = _replace(name, mapping.data, change)
        return mapping
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        twin = copy.copy(item)
        for member in dataclasses.fields(item):
            if hasattr(item, member.name):
                old = getattr(item, member.name)
                new = _replace(f"{name}.{member.name}", old, change)
                # Past a frozen dataclass's refusal: the twin is ours alone.
                object.__setattr__(twin, member.name, new)
        return twin
    return item


def _leaf_copy(tensor: Tensor) -> Tensor:
    """A detached copy with the same strides and offset where a copy of its own memory can have them.

    Gaps, permuted and channels-last layouts are kept; so are expanded dimensions (stride 0). Overlapping
    windows (``unfold``, ``as_strided``) become contiguous. Of a large storage offset the alignment is kept.
    """
    source = tensor.detach()
    if type(tensor) not in (Tensor, nn.Parameter):
        return source.clone()
    if source.numel() == 0:
        return torch.empty_strided(source.shape, source.stride(), dtype=source.dtype, device=source.device)
    compact = source
    for dim, (size, stride) in enumerate(zip(source.shape, source.stride())):
        if stride == 0 and size > 1:
            compact = compact.narrow(dim, 0, 1)
    reach = 1
    for stride, size in sorted((s, n) for n, s in zip(compact.shape, compact.stride()) if n > 1):
        if stride < reach:
            return source.clone(memory_format=torch.contiguous_format)
        reach = stride * (size - 1) + reach
    offset = source.storage_offset()
    offset = offset if offset <= _FARTHEST else offset % _FARTHEST or _FARTHEST
    memory = torch.empty(offset + reach, dtype=source.dtype, device=source.device)
    twin = memory.new_empty(0).set_(memory.untyped_storage(), offset, compact.shape, compact.stride())
    twin.copy_(compact)
    return twin.expand(source.shape) if compact.shape != source.shape else twin


def prepare(call: ResolvedCall, model: object = None, *, track: bool = True) -> PreparedCall:
    """Replace every floating or complex tensor of a call by a leaf copy that requires grad.

    The copies are detached and keep the layout, see :func:`_leaf_copy`. If any input tensor of the user
    requires grad, the user's flags are kept; else every copy requires grad. A tensor that is passed twice
    stays one leaf; two views of one memory become two leaves. Integers, booleans, additive masks (zeros and
    -inf) and the model's own parameters are kept as they are.

    Args:
        call: from :func:`resolve_inputs`.
        model: the model, so that its parameters among the inputs are recognised and names do not collide.
        track: False makes copies that do not require grad, for models that refuse inputs that do.
    """
    own = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    taken = {name for name, _ in model.named_parameters()} if isinstance(model, nn.Module) else set()
    flagged = any(
        tensor.requires_grad
        for _, tensor in call.named_tensors()
        if id(tensor) not in own and tensor.dtype.is_floating_point
    )
    twins: dict[int, Tensor] = {}
    leaves: dict[str, Tensor] = {}
    notes = list(call.notes)

    def change(name: str, tensor: Tensor) -> Tensor:
        if id(tensor) in own or not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        known = twins.get(id(tensor))
        if known is not None:
            return known
        # One byte per element is a storage format, not arithmetic; a mask's infinities have no derivative.
        constant = tensor.element_size() == 1 or (
            tensor.numel() > 0 and bool(torch.isinf(tensor.detach()).any())
        )
        with torch.inference_mode(False), torch.no_grad():
            twin = _leaf_copy(tensor)
        if constant:
            notes.append(f"{name} is taken as constant: its infinities or its dtype have no derivative")
        elif track and (tensor.requires_grad or not flagged):
            twin.requires_grad_(True)
            leaves[f"kwargs[{name!r}]" if name in taken else name] = twin
        twins[id(tensor)] = twin
        return twin

    args, kwargs = _rebuild(call, change)
    return PreparedCall(args, kwargs, leaves, tuple(notes))
