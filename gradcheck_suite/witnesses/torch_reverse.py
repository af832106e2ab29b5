"""The defendant: one forward and backward of the user's model in torch, recorded.

The graph is kept alive, so that nodes about which the run said nothing (a zero cotangent) can be asked again.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import GradientEdge

from ..capture.graph import GraphRecording
from ..capture.hooks import noting_tensor_hooks
from ..capture.modules import ModuleStack
from ..capture.outputs import differentiable_outputs, output_tensors, random_projection, unusual_seed
from ..capture.recorder import Recorder
from ..capture.values import TensorValue
from ..errors import GradcheckError, InputError, ModelError, NothingToVerifyError
from ..evidence import ArraySource, NodeRecord, TensorRef, Trace
from .accumulation import inner_accumulation

__all__ = ["ReverseRun", "record_reverse", "reentrant_backward"]


class ReverseRun:
    """A recorded forward and backward.

    Attributes:
        trace: what was seen.
        outputs: (path, tensor) the backward started from; they keep the graph alive.
        cotangents: one per output.
        gradients: what torch returned, by leaf name; None where no gradient arrived.
        leaves: tensors by leaf name.
        unreached: names among the parameters and inputs that no gradient can reach.
        recorder: kept for drawing and probing.
        hooked: keys of leaves and edges on whose tensors the user has hooks.
        inner: names whose gradients come, wholly or in part, from a backward inside the backward (re-entrant
            checkpointing, a Function that calls ``backward`` itself), unseen here.
        untracked: (path, tensor) of further outputs with floating values and without history.
    """

    def __init__(
        self,
        trace: Trace,
        outputs: Sequence[tuple[str, torch.Tensor]],
        cotangents: Sequence[torch.Tensor],
        gradients: Mapping[str, torch.Tensor | None],
        leaves: Mapping[str, torch.Tensor],
        unreached: Sequence[str],
        recorder: Recorder,
        graph: GraphRecording,
        hooked: set[tuple[int, int]],
        inner: Sequence[str] = (),
        untracked: Sequence[tuple[str, torch.Tensor]] = (),
    ) -> None:
        self.untracked = untracked
        self.trace = trace
        self.outputs = outputs
        self.cotangents = cotangents
        self.gradients = gradients
        self.leaves = leaves
        self.unreached = unreached
        self.recorder = recorder
        self.hooked = hooked
        self.inner = inner
        self._graph = graph

    @property
    def autograd_nodes(self) -> Mapping[int, Any]:
        """torch's node objects by key."""
        return self._graph.by_key

    def probe(
        self, node: NodeRecord, seed: int
    ) -> tuple[tuple[ArraySource | None, ...], tuple[ArraySource | None, ...]] | None:
        """Ask one node again, with a random cotangent in its own dtype.

        Returns:
            (cotangents, gradients) as in :class:`~gradcheck_suite.evidence.NodeRecord`, or None when the node's
            outputs are not known well enough to make a cotangent.
        """
        torch_node = self._graph.by_key[node.key]
        refs = node.outputs
        if not refs or all(ref is None for ref in refs):
            return None
        generator = torch.Generator().manual_seed(unusual_seed(seed + node.key))
        cotangents: list[torch.Tensor | None] = []
        slots = max(len(node.cotangents), len(refs))
        for slot in range(slots):
            ref = refs[slot] if slot < len(refs) else None
            if ref is None or ref.edge is None:
                cotangents.append(None)
                continue
            dtype = getattr(torch, ref.dtype)
            wide = torch.complex128 if dtype.is_complex else torch.float64
            draw = torch.randn(ref.shape, generator=generator, dtype=wide)
            cotangents.append(draw.to(dtype=dtype, device=ref.device))
        given = [(slot, c) for slot, c in enumerate(cotangents) if c is not None]
        if not given:
            return None
        wanted = [(i, fn, nr) for i, (fn, nr) in enumerate(torch_node.next_functions) if fn is not None]
        gradients: list[torch.Tensor | None] = [None] * len(torch_node.next_functions)
        if node.role == "function":
            found = torch.autograd.grad(
                tuple(GradientEdge(torch_node, slot) for slot, _ in given),
                tuple(GradientEdge(fn, nr) for _, fn, nr in wanted),
                tuple(c for _, c in given),
                retain_graph=True,
                allow_unused=True,
            )
            seen: set[tuple[int, int]] = set()
            for (position, fn, nr), gradient in zip(wanted, found):
                # One tensor passed twice: torch gives the sum for each; it is counted once.
                if (id(fn), nr) not in seen:
                    seen.add((id(fn), nr))
                    gradients[position] = gradient
        else:
            with torch.no_grad():
                returned = torch_node(*cotangents)
            returned = returned if isinstance(returned, tuple) else (returned,)
            for position, _, _ in wanted:
                gradients[position] = returned[position]
        return (
            tuple(None if c is None else TensorValue(c) for c in cotangents),
            tuple(None if g is None else TensorValue(g.detach()) for g in gradients),
        )


def record_reverse(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    named_leaves: Mapping[str, torch.Tensor],
    buffers: Sequence[torch.Tensor] = (),
    modules: Sequence[torch.nn.Module] = (),
    loss: Callable[[Any], Any] | None = None,
    wrt: Sequence[str] | None = None,
    seed: int = 0,
) -> ReverseRun:
    """Run ``function(*args, **kwargs)`` and a backward, and record both.

    Args:
        function: the model.
        args, kwargs: of the call.
        named_leaves: parameters and inputs by name.
        buffers: further tensors that exist before the run.
        modules: roots for module paths.
        loss: applied to the output; default: a random projection of every differentiable output.
        wrt: patterns of leaf names to differentiate with respect to; default: every leaf that is reached.
        seed: of the projection.

    Raises:
        ModelError: the model or the loss raised.
        NothingToVerifyError: no differentiable output, or nothing that was asked for is reached.
        InputError: a pattern in ``wrt`` matches no name.
    """
    stack = ModuleStack(*modules)
    recorder = Recorder(stack, [*named_leaves.values(), *buffers])
    hooked: set[tuple[int, int]] = set()
    for tensor in named_leaves.values():
        if tensor._backward_hooks:
            hooked.add((recorder.leaf_key(tensor), 0))
    start_values = {name: recorder.register(t) for name, t in named_leaves.items()}
    with noting_tensor_hooks(recorder, hooked), torch.enable_grad(), stack.observing(), recorder:
        try:
            output = function(*args, **kwargs)
        except GradcheckError:
            raise
        except Exception as error:
            raise ModelError(_raised("running the model", error, args, kwargs)) from error
        if loss is not None:
            try:
                output = loss(output)
            except GradcheckError:
                raise
            except Exception as error:
                raise ModelError(_raised("computing the loss", error, (output,), {})) from error
        recorder.finish_forward()
    outputs = differentiable_outputs(output)
    untracked = [(path, t) for path, t in output_tensors(output) if _without_history(t)]
    cotangents = random_projection(outputs, seed)
    tensors = [tensor for _, tensor in outputs]
    graph = GraphRecording(recorder, tensors)
    leaves, leaf_names = _name_leaves(recorder, graph, tensors, named_leaves)
    wanted = _select(leaves, wrt, named_leaves)
    reentrant = any(node.name().endswith("CheckpointFunctionBackward") for node in graph.nodes)
    # Copies: a backward that writes into its argument would change what the other witnesses are asked with.
    started = [cotangent.clone() for cotangent in cotangents]
    with graph.observing(started), recorder, inner_accumulation(list(named_leaves.values())) as added:
        try:
            if reentrant:
                found = reentrant_backward(tensors, list(wanted.values()), started, named_leaves.values())
            else:
                found = torch.autograd.grad(
                    tensors, list(wanted.values()), started, retain_graph=True, allow_unused=True
                )
        except Exception as error:
            raise ModelError(_raised("running the backward", error, (), {})) from error
    gradients = dict(zip(wanted, found))
    targets = None if wrt is None else list(wanted.values())
    unreached = [n for n, t in named_leaves.items() if n not in leaves and t.requires_grad]
    # With re-entrant checkpoints everything goes through ``.grad``, and what is reached both ways is added up there.
    behind = [
        name
        for name, gradient in zip(named_leaves, added)
        if gradient is not None and not (reentrant and name in leaves)
    ]
    # What a backward of its own has added to is not the gradient that was returned here.
    gradients = {n: g for n, g in gradients.items() if n not in behind}
    wanted = {n: t for n, t in wanted.items() if n not in behind}
    inner = [n for n in behind if wrt is None or any(_meant(n, pattern, named_leaves) for pattern in wrt)]
    unreached = [n for n in unreached if n not in behind]
    trace = graph.trace(cotangents, leaf_names, gradients, start_values, targets)
    return ReverseRun(
        trace, outputs, cotangents, gradients, wanted, unreached, recorder, graph, hooked, inner, untracked
    )


def _without_history(tensor: torch.Tensor) -> bool:
    floating = tensor.is_floating_point() or tensor.is_complex()
    return floating and not tensor.requires_grad and tensor.numel() > 0 and tensor.layout is torch.strided


def reentrant_backward(
    outputs: Sequence[torch.Tensor],
    leaves: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    all_leaves: Iterable[torch.Tensor],
) -> Sequence[torch.Tensor | None]:
    """The gradients of the leaves by way of ``.grad``: re-entrant checkpointing refuses ``autograd.grad``.

    What was in ``.grad`` is put back by whoever preserves the state. Hooks that act on ``.grad`` (an optimizer that steps
    in the backward) must not run.
    """
    waiting: list[tuple[Any, dict[Any, Any]]] = []
    for leaf in {id(t): t for t in (*leaves, *all_leaves)}.values():
        hooks = leaf._post_accumulate_grad_hooks
        if hooks:
            # Emptied, not taken away: torch keeps the dictionary itself.
            waiting.append((hooks, dict(hooks)))
            hooks.clear()
        leaf.grad = None
    try:
        torch.autograd.backward(outputs, cotangents, retain_graph=True)
        return [leaf.grad for leaf in leaves]
    finally:
        for hooks, content in waiting:
            hooks.update(content)


def _raised(attempt: str, error: BaseException, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    shapes = ", ".join(_short(a) for a in [*args, *kwargs.values()])
    given = f" with ({shapes})" if shapes else ""
    return (
        f"{attempt}{given} failed: it raised {type(error).__name__}: {error}. "
        "A gradient can only be checked where the run itself succeeds. "
        "Run the same call without the check first; if the inputs were inferred, pass inputs=..."
    )


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _name_leaves(
    recorder: Recorder,
    graph: GraphRecording,
    outputs: Sequence[torch.Tensor],
    named: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
    """Every leaf the graph reaches, named; leaves that are neither parameter nor input are numbered."""
    by_identity = {id(tensor): name for name, tensor in reversed(list(named.items()))}
    leaves: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}
    reached = [node.variable for key, node in graph.by_key.items() if key < 0]
    reached.extend(o for o in outputs if o.grad_fn is None)
    others = 0
    for tensor in reached:
        name = by_identity.get(id(tensor))
        if name is None:
            others += 1
            name = f"other[{others}]"
            by_identity[id(tensor)] = name
        leaves[name] = tensor
        names[recorder.leaf_key(tensor)] = name
    order = {name: i for i, name in enumerate(named)}
    ordered = sorted(leaves, key=lambda n: order.get(n, len(order)))
    return {n: leaves[n] for n in ordered}, names


def _select(
    leaves: dict[str, torch.Tensor], wrt: Sequence[str] | None, named: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    if wrt is None:
        chosen = leaves
    else:
        chosen = {}
        for pattern in wrt:
            known = [n for n in {**leaves, **named} if _meant(n, pattern, {**leaves, **named})]
            if not known:
                raise InputError(
                    f"selecting what to differentiate with respect to failed: {pattern!r} matches none of "
                    f"{', '.join(list({**named, **leaves})[:12])}. Pass names of parameters or inputs, or patterns like '*.weight'."
                )
            chosen.update({n: leaves[n] for n in known if n in leaves})
    if not chosen:
        raise NothingToVerifyError(
            "checking gradients failed: no parameter and no input that requires grad is reached by the backward. "
            f"{len(named)} named tensors were looked at. Make sure that something requires grad and that the output depends on it."
        )
    return chosen


def _meant(name: str, pattern: str, names: Mapping[str, object]) -> bool:
    """Whether a pattern of ``wrt`` means a name; in ``inputs[0]`` the brackets belong to the name and are no set."""
    return name == pattern if pattern in names else fnmatch.fnmatchcase(name, pattern)


def is_zero(source: ArraySource | None) -> bool:
    """Whether a cotangent is undefined or zero in every element."""
    return source is None or not np.any(source.array())


def value_of(ref: TensorRef) -> Any:
    """The recorded contents, as NumPy."""
    return ref.source.array()
