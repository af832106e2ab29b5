"""Inputs for a model that came without: from what it declares, else by trying what its first layers take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from ..errors import InputError
from .outputs import describe
from .state import preserved, rng_frozen

__all__ = ["Guess", "infer_call", "placement"]

_BATCH = 2  # batch norm in training refuses one value per channel
_LARGER_BATCH = 8
_LENGTH = 5  # differs from the batch size, so that a swap of the two shows
_IMAGE_SIZES = (32, 64, 96, 224)
# Beyond the usual sizes: models that flatten into a linear layer take exactly one.
_ODD_IMAGE_SIZES = (28, 84, 128, 227, 256, 299, 16, 8)
_MOST_TRIALS = 48
_MOST_LAYERS = 6
_FEW_VALUES = 4


@dataclass(frozen=True, eq=False)
class Guess:
    """Inputs that were inferred, and a note that says how."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def placement(model: object) -> tuple[torch.device, torch.dtype]:
    """Device and real dtype of the model's parameters (else buffers; else the CPU and the default dtype)."""
    if isinstance(model, nn.Module):
        for tensors in (model.parameters(), model.buffers()):
            for tensor in tensors:
                if tensor.is_floating_point() and tensor.element_size() > 1:
                    return tensor.device, tensor.dtype
                if tensor.is_complex():
                    return tensor.device, tensor.dtype.to_real()
    return torch.device("cpu"), torch.get_default_dtype()


class _Maker:
    """Draws tensors of one seed for one placement; equal requests of one maker give different numbers."""

    def __init__(self, model: object, seed: int) -> None:
        self.device, self.dtype = placement(model)
        self.generator = torch.Generator().manual_seed(seed)

    def real(self, *shape: int) -> Tensor:
        draw = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return draw.to(device=self.device, dtype=self.dtype)

    def integer(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, max(1, high), shape, generator=self.generator).to(self.device)


@dataclass(frozen=True)
class _Candidate:
    """Something to try: how it came about, and what makes the arguments for a batch size."""

    origin: str
    make: Callable[[_Maker, int], tuple[tuple[Any, ...], dict[str, Any]]]


def _describe_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    def show(value: object) -> str:
        tensors = [x for x in _pytree.tree_leaves(value) if isinstance(x, Tensor)]
        return ", ".join(describe(x) for x in tensors) or type(value).__name__

    return ", ".join([show(a) for a in args] + [f"{name}={show(v)}" for name, v in kwargs.items()])


def infer_call(
    model: Callable[..., Any], signature: inspect.Signature | None, given: Mapping[str, Any], seed: int
) -> Guess:
    """Find arguments with which the model runs.

    In this order: Lightning's ``example_input_array``; Hugging Face's configuration, then its
        ``dummy_inputs``; the
    input size a timm model declares; else shapes that the first layers with a known input shape take. Each is
    tried under ``no_grad`` with everything put back, until the forward runs. Reals are standard normal, the
    batch size is 2. A candidate that leaves a batch norm in training with very few values per channel is kept
    only if nothing better runs: its gradient would be nearly zero.

    Args:
        model: a module or a callable.
        signature: of its forward, or None.
        given: keyword arguments that are passed in any case.
        seed: of the draws.

    Raises:
        InputError: nothing ran; the message lists what was tried.
    """
    name = (
        type(model).__name__ if isinstance(model, nn.Module) else getattr(model, "__qualname__", repr(model))
    )
    if not isinstance(model, nn.Module):
        raise InputError(
            f"inferring the inputs of {name} failed: it is a function, whose arguments have no known shapes. "
            "Only modules tell them by their layers. "
            "Pass inputs=..., for example a tensor or a tuple of tensors."
        )
    tried: list[str] = []
    fallback: tuple[_Candidate, str] | None = None
    with preserved(model, dict(given)) as state, rng_frozen(seed):

        def attempt(candidate: _Candidate, batch: int) -> tuple[Guess | None, int]:
            args, kwargs = candidate.make(_Maker(model, seed), batch)
            kwargs = {k: v for k, v in kwargs.items() if k not in given}
            shown = _describe_call(args, kwargs)
            values, problem = _forward(model, args, {**kwargs, **given})
            state.restore()
            if problem:
                tried.append(f"{shown}: {problem}")
                return None, 0
            note = f"inputs inferred from {candidate.origin}: {shown}, drawn with seed {seed}"
            return Guess(args, kwargs, (note,)), values

        for candidate in _candidates(model, signature, given):
            if len(tried) >= _MOST_TRIALS:
                break
            guess, values = attempt(candidate, _BATCH)
            if guess is None:
                continue
            if values >= _FEW_VALUES:
                return guess
            if fallback is None:
                fallback = (candidate, guess.notes[0])
                larger, values = attempt(candidate, _LARGER_BATCH)
                if larger is not None and values >= _FEW_VALUES:
                    return larger
        if fallback is not None:
            guess, _ = attempt(fallback[0], _BATCH)
            if guess is not None:
                return guess
    listed = (
        "".join(f"\n  {line}" for line in tried[:12])
        or "\n  nothing: no layer with a known input shape was found"
    )
    more = f"\n  and {len(tried) - 12} more" if len(tried) > 12 else ""
    raise InputError(
        f"inferring the inputs of {name} failed: {len(tried)} candidates were tried, none ran:"
        f"{listed}{more}\n"
        "What a forward takes cannot always be read off its layers. "
        "Pass inputs=..., for example check_gradients(model, torch.randn(2, 3)), or a function "
        "(rng) -> inputs."
    )


def _forward(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, str]:
    """Run once: the fewest values per channel that a batch norm in training saw, and the error or ""."""
    fewest = [_FEW_VALUES]

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training and inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() > 1:
            fewest[0] = min(fewest[0], inputs[0].numel() // max(1, inputs[0].shape[1]))

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(count) for norm in norms]
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:  # the user's forward may raise anything; that it does is what is asked here
        lines = str(error).strip().splitlines()
        return 0, f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
    finally:
        for handle in handles:
            handle.remove()
    return fewest[0], ""


# ------------------------------------------------------------------------------------------------ candidates


def _candidates(
    model: nn.Module, signature: inspect.Signature | None, given: Mapping[str, Any]
) -> Iterator[_Candidate]:
    yield from _declared(model)
    yield from _hugging_face(model, signature)
    yield from _timm(model)
    yield from _from_layers(model, _required(signature, given))


def _required(signature: inspect.Signature | None, given: Mapping[str, Any]) -> int:
    if signature is None:
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p
        for p in signature.parameters.values()
        if p.kind in kinds and p.default is inspect.Parameter.empty and p.name not in given
    ]
    return max(1, len(needed))


def _declared(model: nn.Module) -> Iterator[_Candidate]:
    example = getattr(model, "example_input_array", None)
    if example is None:
        return

    def make(maker: _Maker, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def place(x: Any) -> Any:
            return x.detach().to(maker.device) if isinstance(x, Tensor) else x

        placed = _pytree.tree_map(place, example)
        if isinstance(placed, Mapping):
            return (), dict(placed)
        return (placed if isinstance(placed, tuple) else (placed,)), {}

    yield _Candidate("the model's example_input_array", make)


def _integer_setting(config: object, *names: str) -> int | None:
    """The first of these settings that is a whole number, also in the parts of a composed configuration."""
    parts = [
        config,
        *(getattr(config, p, None) for p in ("text_config", "vision_config", "encoder", "audio_config")),
    ]
    for part in parts:
        for name in names:
            value = getattr(part, name, None)
            if isinstance(value, (tuple, list)) and value:
                value = value[0]
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _hugging_face(model: nn.Module, signature: inspect.Signature | None) -> Iterator[_Candidate]:
    config = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return
    names = set(signature.parameters) if signature is not None else set()
    vocabulary = _integer_setting(config, "vocab_size")
    image = _integer_setting(config, "image_size") or 32
    channels = _integer_setting(config, "num_channels", "in_channels") or 3

    def value(name: str, maker: _Maker, batch: int) -> Any:
        if name in ("input_ids", "decoder_input_ids") and vocabulary:
            return maker.integer(vocabulary, batch, 8)
        if name == "pixel_values":
            return maker.real(batch, channels, image, image)
        if name == "input_values":
            return maker.real(batch, 1600)
        if name == "input_features":
            mels = _integer_setting(config, "num_mel_bins", "feature_size") or 80
            frames = 2 * (_integer_setting(config, "max_source_positions") or 50)
            return maker.real(batch, mels, frames)
        return None

    known = ("input_ids", "pixel_values", "input_values", "input_features", "decoder_input_ids")
    composed = [main] + (["decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) else [])
    everything = [n for n in known if n in names and (n != "decoder_input_ids" or n in composed)]
    for wanted in ([main], composed, everything):

        def make(
            maker: _Maker, batch: int, wanted: list[str] = wanted
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            values = {n: value(n, maker, batch) for n in wanted}
            return (), {n: v for n, v in values.items() if v is not None}

        if all(value(n, _Maker(model, 0), 1) is not None for n in wanted):
            yield _Candidate("the Hugging Face configuration", make)
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and dummy:

        def make_dummy(maker: _Maker, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            def place(x: Any) -> Any:
                if not isinstance(x, Tensor):
                    return x
                if x.is_floating_point():
                    return x.to(maker.device, maker.dtype)
                return (x % vocabulary if vocabulary and x.dtype is torch.int64 else x).to(maker.device)

            return (), {str(name): place(x) for name, x in dummy.items()}

        yield _Candidate("the Hugging Face dummy_inputs", make_dummy)


def _of_shape(origin: str, *shape: int, count: int = 1) -> _Candidate:
    def make(maker: _Maker, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(maker.real(*(batch if n == -1 else n for n in shape)) for _ in range(count)), {}

    return _Candidate(origin, make)


def _image_sizes(model: nn.Module) -> list[int]:
    """Sizes to try: the one the model declares, if any, before the usual ones."""
    for part in (model, getattr(model, "patch_embed", None)):
        size = _integer_setting(part, "image_size", "img_size") if part is not None else None
        if size:
            return [size, *(s for s in _IMAGE_SIZES if s != size)]
    return list(_IMAGE_SIZES)


def _timm(model: nn.Module) -> Iterator[_Candidate]:
    declared = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = declared.get("input_size") if isinstance(declared, Mapping) else None
    if not isinstance(size, (tuple, list)) or len(size) != 3:
        return
    channels = getattr(model, "in_chans", None)
    channels = channels if isinstance(channels, int) else int(size[0])
    for side in dict.fromkeys([*_image_sizes(model), int(size[1])]):
        yield _of_shape("the model's default_cfg", -1, channels, side, side)


# Each function gives, for one layer, the shapes it takes, the likeliest first; -1 is the batch size.
_Shape = tuple[int, ...]


def _sequence(size: int, batch_first: bool) -> _Shape:
    return (-1, _LENGTH, size) if batch_first else (_LENGTH, -1, size)


def _linear_shapes(features: int) -> list[_Shape]:
    shapes: list[_Shape] = [(-1, features), (-1, _LENGTH, features)]
    for channels in (1, 3):  # a model that flattens images itself
        side = math.isqrt(features // channels)
        if side > 3 and channels * side * side == features:
            shapes.append((-1, channels, side, side))
    return shapes


def _layer_shapes(layer: nn.Module, sizes: list[int]) -> list[_Shape]:
    """Shapes of real inputs that a layer takes; none when it does not tell."""
    if isinstance(layer, nn.Linear):
        return _linear_shapes(layer.in_features)
    if isinstance(layer, nn.Bilinear):
        return [(-1, layer.in1_features)]
    if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
        return [(-1, layer.in_channels, n) for n in (16, 32, 64, 128, 256, 1024, 4096)]
    if isinstance(layer, nn.ConvTranspose2d):
        return [(-1, layer.in_channels, n, n) for n in (4, 8, 1, 16)]
    if isinstance(layer, nn.Conv2d):
        return [(-1, layer.in_channels, n, n) for n in dict.fromkeys([*sizes, *_ODD_IMAGE_SIZES])]
    if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        return [(-1, layer.in_channels, *n) for n in ((8, 16, 16), (8, 32, 32), (16, 32, 32), (16, 112, 112))]
    if isinstance(layer, nn.RNNBase):
        return [_sequence(layer.input_size, layer.batch_first)]
    if isinstance(layer, nn.RNNCellBase):
        return [(-1, layer.input_size)]
    if isinstance(layer, nn.MultiheadAttention):
        return [_sequence(layer.embed_dim, layer.batch_first)]
    if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return [_sequence(layer.self_attn.embed_dim, layer.self_attn.batch_first)]
    if isinstance(layer, nn.Transformer):
        return [_sequence(layer.d_model, layer.batch_first)]
    if isinstance(layer, nn.BatchNorm1d):
        return [(-1, layer.num_features), (-1, layer.num_features, 8)]
    if isinstance(layer, (nn.BatchNorm2d, nn.InstanceNorm2d)):
        return [(-1, layer.num_features, 8, 8)]
    if isinstance(layer, nn.InstanceNorm1d):
        return [(-1, layer.num_features, 8)]
    if isinstance(layer, (nn.BatchNorm3d, nn.InstanceNorm3d)):
        return [(-1, layer.num_features, 4, 4, 4)]
    if isinstance(layer, nn.GroupNorm):
        return [(-1, layer.num_channels, 8, 8), (-1, layer.num_channels)]
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return [(-1, *layer.normalized_shape), (-1, _LENGTH, *layer.normalized_shape)]
    return []


def _layer_candidates(layer: nn.Module, sizes: list[int]) -> list[_Candidate]:
    kind = type(layer).__name__
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        found = []
        for shape in ((_LENGTH + 3,), ()):

            def make(
                maker: _Maker, batch: int, high: int = layer.num_embeddings, rest: tuple[int, ...] = shape
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                return (maker.integer(high, batch, *rest),), {}

            found.append(_Candidate(f"the first layers ({kind})", make))
        return found
    if isinstance(layer, nn.Bilinear):
        first, second = layer.in1_features, layer.in2_features
        return [_joined([_of_shape(f"the first layers ({kind})", -1, n) for n in (first, second)])]
    return [_of_shape(f"the first layers ({kind})", *shape) for shape in _layer_shapes(layer, sizes)]


def _joined(parts: list[_Candidate]) -> _Candidate:
    """Several candidates as the arguments of one call."""

    def make(maker: _Maker, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(value for part in parts for value in part.make(maker, batch)[0]), {}

    return _Candidate(parts[0].origin, make)


def _from_layers(model: nn.Module, required: int) -> Iterator[_Candidate]:
    sizes = _image_sizes(model)
    layers: list[list[_Candidate]] = []
    for layer in model.modules():
        candidates = _layer_candidates(layer, sizes)
        if candidates:
            layers.append(candidates)
        if len(layers) >= _MOST_LAYERS:
            break
    if required == 1:
        for candidates in layers:
            yield from candidates
        return
    # Several arguments: alike (query, key, value), or each for its own layer (user and item embeddings).
    for candidates in layers:
        for candidate in candidates:
            yield (
                _joined([candidate] * required)
                if len(candidate.make(_Maker(model, 0), 1)[0]) == 1
                else candidate
            )
    if len(layers) >= required:
        depth = max(len(c) for c in layers[:required])
        for i in range(depth):
            yield _joined([c[min(i, len(c) - 1)] for c in layers[:required]])
