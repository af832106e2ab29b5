"""Calls of torch's own layers, which run unseen once it is known which operations they run.

Most operations of a forward run in layers such as ``nn.Conv2d`` or ``nn.Linear``, where no line of the user's can be. The first
call of a layer with arguments of a kind is recorded operation by operation and gives a template
(:mod:`gradcheck_suite.watching.templates`). While later ones run, the recorder is off the stack of modes; afterwards it
is told what the template says, with this call's tensors.

A layer is known by its class, by all its plain attributes (so also its mode), and by types, shapes, strides and
``requires_grad`` of what it is given and holds. Whatever could let something else run in it (hooks, other modes, autocast,
transforms, a forward of its own) sends it the ordinary way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.modules.module as _modules
from torch._C import (
    _get_dispatch_stack_at,
    _len_torch_dispatch_stack,
    _pop_torch_dispatch_stack,
    _push_on_torch_dispatch_stack,
)

from ..capture.identity import _storage_address
from ..capture.layer_calls import LayerCall, LayerOrigin, LayerTemplate
from ..capture.modules import ModuleStack
from ..capture.values import PRUNE_EVERY
from ..evidence import Location
from .recorder import WatchingRecorder, Write
from .saved import is_foreign
from .stretches import come_back
from .templates import Learning, learn

__all__ = ["KnownLayers"]

_new = object.__new__
_Parameter = torch.nn.Parameter
_Tensor = torch.Tensor
_strided = torch.strided
_is_fwd_grad_enabled = torch._C._is_fwd_grad_enabled
_is_any_autocast_enabled = torch._C._is_any_autocast_enabled
_is_torch_function_mode_enabled = torch._C._is_torch_function_mode_enabled
_top_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_peek_interpreter_stack = torch._C._functorch.peek_interpreter_stack
_get_tracing_state = torch._C._get_tracing_state
_OF_TORCH = "torch.nn.modules."
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size)
# What every module has, and what of a layer's own is made from its other attributes.
_INNER = {*torch.nn.Module().__dict__} - {"training"} | {"_reversed_padding_repeated_twice"}
_HOOKS = ("_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks")
_MOST_KINDS = 16
_MOST_TEMPLATES = 4_096
_UNKNOWN: Any = object()
_templates: dict[Any, LayerTemplate | None] = {}


@dataclass(eq=False, slots=True)
class _Layer:
    """What is known of one module.

    Attributes:
        attributes: its attributes, in their order, when ``kinds`` was filled.
        forward: of its class.
        hooks: its own, all of them empty while it is known.
        path: its name, once it has one.
        kinds: templates by what it is given and holds; None where there can be none.
        latest, template: what it was given and held at its latest call, and the template of that.
    """

    attributes: tuple[Any, ...]
    configuration: tuple[Any, ...]
    forward: Any
    hooks: tuple[Any, ...]
    path: str
    kinds: dict[Any, LayerTemplate | None] = field(default_factory=dict)
    latest: list[Any] | None = None
    template: LayerTemplate | None = None


class KnownLayers:
    """Runs the modules that are called in a session.

    Args:
        recorder: of the session.
        modules: whose forward runs.
        differs: told of a layer that did not run as before.
    """

    def __init__(
        self, recorder: WatchingRecorder, modules: ModuleStack, differs: Callable[[str], None]
    ) -> None:
        self._recorder = recorder
        self._modules = modules
        self._differs = differs
        # None for what is no layer of torch's own.
        self._layers: dict[int, _Layer | None] = {}
        self._references: dict[int, weakref.ref[torch.nn.Module]] = {}

    def template(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """How a call is to run.

        Returns:
            None for the ordinary way, otherwise what :meth:`run` takes; without a template what :meth:`learnt` takes.
        """
        try:
            return self._template(module, args, kwargs)
        except RuntimeError:
            # A nested tensor has no shape; a view whose base was written to may have a node that cannot be asked for.
            return None

    def _template(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = id(module)
        layer = self._layers.get(number, _UNKNOWN)
        if layer is _UNKNOWN:
            layer = self._look_at(module)
        if layer is None or kwargs or not self._is_plain():
            return None
        if type(module).forward is not layer.forward or any(layer.hooks):
            return None
        if tuple(module.__dict__.values()) != layer.attributes:
            layer = self._look_at(module)
            if layer is None:
                return None
        if not layer.path:
            layer.path = self._modules.meet(module)
        given = [*args, *module._parameters.values(), *module._buffers.values()]
        kind: list[Any] = [len(args)]
        for tensor in given:
            its = type(tensor)
            if its is _Parameter or its is _Tensor:
                if tensor.layout is not _strided:
                    return None
                kind += tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad, tensor.device
            elif tensor is None:
                kind.append(None)
            else:
                return None
        if kind == layer.latest:  # which saves hashing all that
            template = layer.template
        else:
            key = tuple(kind)
            template = layer.kinds.get(key, _UNKNOWN)
            if template is _UNKNOWN:
                template = _templates.get((layer.configuration, key), _UNKNOWN)
                if template is _UNKNOWN:
                    return (layer, key, given) if len(layer.kinds) < _MOST_KINDS else None
                layer.kinds[key] = template
            layer.latest, layer.template = kind, template
        if template is None:
            return None
        if template.written is not None and not self._may_write(template, given):
            return None
        return template, layer, kind, given

    def learning(self) -> Learning:
        """A call goes the ordinary way and is looked at; set ``learning`` of the recorder to None when it has ended."""
        learning = self._recorder.learning = Learning()
        return learning

    def learnt(self, call: Any, learning: Learning, out: Any, count: int) -> None:
        """It has ended.

        Args:
            call: from :meth:`template`.
            learning: what was seen.
            out: its result.
            count: of its arguments.
        """
        layer, key, given = call
        recorder = self._recorder
        if recorder._segment is not None or recorder.broken is not None:
            return
        location, _ = recorder.sources.find(2, look_for_function=False)
        _pop_torch_dispatch_stack(None)
        try:
            recorder._settle()
            template = learn(learning, given, out, count, location)
        finally:
            come_back(recorder, 0)
        if len(_templates) >= _MOST_TEMPLATES:
            _templates.clear()
        layer.kinds[key] = _templates[layer.configuration, key] = template

    def run(self, call: Any, original: Callable[..., Any], module: torch.nn.Module, args: Any) -> Any:
        """Run a call of a known layer.

        Args:
            call: from :meth:`template`.
            original, module, args: the call.
        """
        __tracebackhide__ = True
        template, layer, kind, given = call
        recorder = self._recorder
        path = layer.path or type(module).__name__
        location: Location | None = None
        noted: LayerCall | None = None
        counted: list[tuple[int, str]] = []
        _pop_torch_dispatch_stack(None)
        try:
            try:
                if recorder._segment is not None:
                    recorder._segment_for(None)
                if recorder._pending:
                    recorder._settle()
                location, _ = recorder.sources.find(2, look_for_function=False)
                if location is not None and location.function == "forward":
                    recorder._note_line(location, path)
                if recorder.evaluations:
                    recorder.evaluations.used_in_a_graph()
                if template.written is not None:
                    noted = self._begun(template, given)
                if template.written is not None or template.counted:
                    counted = self._protected(template, given)
            except Exception:  # a watched program must not fail because its watcher did
                recorder._give_up()
            out = original(module, *args)
            try:
                if recorder.broken is None:
                    if noted is None:
                        noted = self._begun(template, given)
                    if not self._note(noted, template, location, path, given, out):
                        key = tuple(kind)
                        layer.kinds.pop(key, None)
                        layer.latest = None
                        _templates.pop((layer.configuration, key), None)
                        self._differs(type(module).__name__)
                    for storage, name in counted:
                        recorder.note_write(storage, name, location)
            except Exception:  # likewise
                recorder._give_up()
            return out
        finally:
            if _len_torch_dispatch_stack():
                come_back(recorder, 0)
            else:
                _push_on_torch_dispatch_stack(recorder)

    # -- whether -------------------------------------------------------------------------------------------------

    def _is_plain(self) -> bool:
        """Whether nothing is in effect by which something else could run in a layer."""
        recorder = self._recorder
        return (
            torch.is_grad_enabled()
            and _len_torch_dispatch_stack() == 1
            and _get_dispatch_stack_at(0) is recorder
            and recorder.broken is None
            and not recorder._in_backward
            and recorder.learning is None
            and _is_fwd_grad_enabled()
            and not _is_any_autocast_enabled()
            and not _is_torch_function_mode_enabled()
            and _top_hooks(True) is None
            and _peek_interpreter_stack() is None
            and _get_tracing_state() is None
            and not (
                _modules._global_forward_pre_hooks
                or _modules._global_forward_hooks
                or _modules._global_backward_pre_hooks
                or _modules._global_backward_hooks
            )
        )

    def _may_write(self, template: LayerTemplate, given: list[Any]) -> bool:
        """Whether nothing else is to be known of a write than that it happened."""
        assert template.written is not None
        target = given[template.given[template.written]]
        return (
            target.grad_fn is not None
            and not target._is_view()
            # What else it reads might be a gradient.
            and (len(template.given) == 1 or not self._recorder._listener.follows_gradients())
        )

    def _look_at(self, module: torch.nn.Module) -> _Layer | None:
        number = id(module)
        layer = self._layer(module)
        self._layers[number] = layer
        self._references[number] = weakref.ref(module, lambda _: self._forget(number))
        return layer

    def _forget(self, number: int) -> None:
        self._layers.pop(number, None)
        self._references.pop(number, None)

    def _layer(self, module: torch.nn.Module) -> _Layer | None:
        kind = type(module)
        own = module.__dict__
        forward = getattr(kind, "forward", None)
        if (
            not kind.__module__.startswith(_OF_TORCH)
            or module._modules
            or getattr(forward, "__module__", None) != kind.__module__
            or not all(name in own for name in _HOOKS)
        ):
            return None
        plain = {name: value for name, value in own.items() if name not in _INNER}
        if not all(map(_is_constant, plain.values())):
            return None
        return _Layer(
            attributes=tuple(own.values()),
            configuration=(kind, *plain.items(), *module._parameters, *module._buffers),
            forward=forward,
            hooks=tuple(own[name] for name in _HOOKS),
            path="",
        )

    # -- what is noted -------------------------------------------------------------------------------------------

    def _begun(self, template: LayerTemplate, given: list[Any]) -> LayerCall:
        """A call, with what it was given."""
        recorder = self._recorder
        numbers, known_epochs, values = recorder._storages, recorder._epochs, recorder.values
        live, exposed = values._live, values._exposed
        call = _new(LayerCall)
        reference = weakref.ref(call)
        call.template = template
        call.copies = call._refs = call._operations = call._instead = None
        aliases: list[torch.Tensor | None] = []
        storages: list[int] = []
        epochs: list[int] = []
        edges: list[tuple[int, int] | None] = []
        tracked = template.tracked
        foreign: list[int] = []
        own = template.count
        for slot, position in enumerate(template.given):
            tensor = given[position]
            # A buffer is without history by itself.
            aliases.append(tensor if position >= own and not tracked[slot] else tensor.detach())
            address = _storage_address(tensor)
            storage = numbers.get(address)
            if storage is None:
                recorder._storage_count = storage = recorder._storage_count + 1
                numbers[address] = storage
            storages.append(storage)
            epochs.append(known_epochs.get(storage, 0))
            watched = live.get(storage)
            if watched is None:
                live[storage] = [reference]
            else:
                watched.append(reference)
                if not len(watched) % PRUNE_EVERY:
                    live[storage] = [r for r in watched if r() is not None]
            if tracked[slot]:
                node = tensor.grad_fn
                edges.append(
                    (recorder.leaf_key(tensor), 0)
                    if node is None
                    else (recorder._entry(node)[0], tensor.output_nr)
                )
                if exposed and storage in exposed and is_foreign(tensor):
                    foreign.append(slot)
            else:
                edges.append(None)
                if is_foreign(tensor):
                    foreign.append(slot)
        call.aliases, call.storages, call.epochs, call.edges = aliases, storages, epochs, edges
        for slot in foreign:
            self._set_aside(call, slot, storages[slot], aliases[slot])
        return call

    def _set_aside(self, call: LayerCall, slot: int, storage: int, alias: torch.Tensor | None) -> None:
        """Keep what is in memory that others can write to unseen."""
        copy = self._recorder.values.set_aside_of_call(storage, call, alias)
        if copy is not None:
            call.copies = {**(call.copies or {}), slot: copy}

    def _protected(self, template: LayerTemplate, given: list[Any]) -> list[tuple[int, str]]:
        """What is about to be written to is kept; the numbers of the memory that a counter lives in."""
        recorder = self._recorder
        if template.written is not None:
            storage = recorder._storages[_storage_address(given[template.given[template.written]])]
            recorder.values.before_write(storage)
        counted = []
        for position, name in template.counted:
            number = recorder._storages.get(_storage_address(given[position]))
            if number is not None:
                recorder.values.before_write(number)
                counted.append((number, name))
        return counted

    def _note(
        self,
        call: LayerCall,
        template: LayerTemplate,
        location: Location | None,
        path: str,
        given: list[Any],
        out: Any,
    ) -> bool:
        """A call has run; whether it ran as before."""
        recorder = self._recorder
        if type(out) is not _Tensor:
            return False
        mark = recorder._mark
        nodes: list[Any] = []
        numbers: list[int] = []
        node: Any
        for operation in template.operations:
            node = out.grad_fn
            for step in operation.path:
                parents = () if node is None else node.next_functions
                node = parents[step][0] if step < len(parents) else None
            if type(node) is not operation.node:
                return False
            metadata: dict[str, Any] = node.metadata
            if mark in metadata:
                return False
            origin = _new(LayerOrigin)
            origin.call, origin.position = call, len(nodes)
            recorder._node_count = number = recorder._node_count + 1
            metadata[mark] = [number, origin]
            numbers.append(number)
            nodes.append(node)
        call.location, call.module, call.numbers = location, path, numbers
        call.index = recorder._operation_count
        recorder._operation_count += len(nodes)
        storages, epochs, aliases = call.storages, call.epochs, call.aliases
        assert aliases is not None
        live = recorder.values._live
        written = template.written
        if written is not None:
            storage = storages[written]
            recorder._epoch_clock = epoch = recorder._epoch_clock + 1
            recorder._epochs[storage] = epoch
            name = template.operations[0].name
            target = given[template.given[written]]
            recorder._log(storage, Write(epoch, name, location, path))
            recorder._listener.wrote(
                name.partition(".")[0], target, _storage_address(target), None, from_gradient=False
            )
            live[storage] = [weakref.ref(call)]  # it was emptied before the write
        elif template.shares is not None:
            storage = storages[template.shares]
            epoch = epochs[template.shares]
        else:
            # Fresh memory, possibly at an address that earlier memory had.
            recorder._storage_count = storage = recorder._storage_count + 1
            recorder._storages[_storage_address(out)] = storage
            live[storage] = [weakref.ref(call)]
            epoch = 0
        known = recorder._known
        known.add(storage)
        # By slot: the result comes first after what was given.
        aliases.append(out.detach())
        storages.append(storage)
        epochs.append(epoch)
        for position, attribute in template.saved:
            tensor = getattr(nodes[position], attribute)
            alias = tensor.detach() if tensor.requires_grad else tensor
            address = _storage_address(tensor)
            if template.made_by[len(aliases)] is None:
                # It may look at what the call was given.
                storage = recorder._storage(tensor)
                recorder.values.watch(storage, call)
                if is_foreign(tensor):
                    self._set_aside(call, len(aliases), storage, alias)
            else:
                recorder._storage_count = storage = recorder._storage_count + 1
                recorder._storages[address] = storage
                live[storage] = [weakref.ref(call)]
                known.add(storage)
            aliases.append(alias)
            storages.append(storage)
            epochs.append(recorder._epochs.get(storage, 0))
        for strided in template.strided:
            aliases.append(None)
            storages.append(storages[strided.source])
            epochs.append(epochs[strided.source])
        return True


def _is_constant(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_constant, value)))
