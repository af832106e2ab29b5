"""Command-line targets: from ``pkg.module:Model``, ``file.py:fn`` or ``torchvision:NAME`` to what is checked.

A class is instantiated without arguments; an instance is checked as a model, anything else that can be called as a
function. Inputs come from the same file, if it provides them: ``NAME_inputs`` for the target ``NAME``, else
``gradcheck_inputs``, else ``inputs``; each may be the inputs themselves or a function that returns them (without
arguments, or with a NumPy generator). Otherwise they are inferred by the check.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .errors import TargetError
from .wording import nearest, plural

__all__ = ["Target", "resolve_target"]

# Small enough for a check within seconds, large enough that heads, layers and experts are more than one each.
_TINY = {
    "hidden_size": 32,
    "d_model": 32,
    "dim": 32,
    "num_hidden_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_heads": 4,
    "head_dim": 8,
    "intermediate_size": 37,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "ffn_dim": 37,
    "d_ff": 37,
    "d_kv": 8,
    "hidden_dim": 37,
    "embedding_size": 16,
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    # Tokens that mean something must exist in the small vocabulary.
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}


@dataclass(frozen=True)
class Target:
    """What a target names.

    Attributes:
        text: the target as given.
        subject: a model or function.
        inputs: what the file provides as inputs, or None.
        note: what was done to get there, for the report; "".
    """

    text: str
    subject: Callable[..., Any]
    inputs: Any = None
    note: str = ""


def resolve_target(text: str, seed: int = 0) -> Target:
    """Find, import and if need be instantiate what a target names.

    Args:
        text: the target.
        seed: of the random weights that a model is instantiated with; the process's own generators are left alone.

    Raises:
        TargetError: the form is not understood, the module or name does not exist (the nearest is suggested), the
            class needs arguments, or importing or instantiating it raised.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name:
        raise TargetError(
            f"resolving the target {text!r} failed: it has no form PLACE:NAME. "
            "Write file.py:name, package.module:name, torchvision:resnet18, timm:NAME or transformers:NAME."
        )
    from .capture.state import rng_frozen  # imports torch, which a mistyped command need not wait for

    with rng_frozen(seed):
        zoo = _ZOOS.get(place)
        if zoo is not None:
            return zoo(text, name)
        module = _from_file(text, place) if place.endswith(".py") else _from_import(text, place)
        return _from_module(text, module, name)


# ------------------------------------------------------------------------------------------------ own code


def _from_file(text: str, path: str) -> ModuleType:
    """Run a file as a module of its own name, with its folder importable, as when it is started as a script."""
    full = os.path.abspath(path)
    if not os.path.isfile(full):
        raise TargetError(
            f"resolving the target {text!r} failed: there is no file {path!r} in {os.getcwd()}. Check the path."
        )
    name = os.path.splitext(os.path.basename(full))[0]
    folder = os.path.dirname(full)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == full:
        return known
    # A file that is called like an installed package must not replace it.
    name = f"gradcheck_target_{name}" if known is not None else name
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise TargetError(
            f"resolving the target {text!r} failed: {path!r} cannot be imported. Name a Python file."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    loader = spec.loader
    try:
        _calling_user_code(text, f"running {path}", lambda: loader.exec_module(module))
    except TargetError:
        del sys.modules[name]
        raise
    return module


def _from_import(text: str, name: str) -> ModuleType:
    # A console script starts without the working directory on the path; `python -m` has it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None:
        zoo = nearest(name, _ZOOS)
        raise TargetError(
            f"resolving the target {text!r} failed: there is no module {name!r}. "
            f"{zoo or f'Write {name}.py:NAME if it is a file, or check the spelling.'}"
        )
    module = _calling_user_code(text, f"importing {name}", lambda: importlib.import_module(name))
    assert isinstance(module, ModuleType)
    return module


def _from_module(text: str, module: ModuleType, dotted: str) -> Target:
    found: Any = module
    for part in dotted.split("."):
        if not hasattr(found, part):
            names = [n for n in vars(found) if not n.startswith("_") and callable(getattr(found, n))]
            suggestion = nearest(part, names) or (
                f"It has {', '.join(names[:8])}." if names else "It has none."
            )
            raise TargetError(
                f"resolving the target {text!r} failed: {getattr(found, '__name__', found)} has no {part!r}. "
                f"{suggestion}"
            )
        found = getattr(found, part)
    note = ""
    if inspect.isclass(found):
        found, note = _instance(text, found), f"{dotted} was instantiated without arguments"
    if not callable(found):
        raise TargetError(
            f"resolving the target {text!r} failed: {dotted} is {type(found).__name__}, which cannot be called. "
            "Name a model, a class of models or a function."
        )
    return Target(text, found, _provided_inputs(text, module, dotted), note)


def _instance(text: str, cls: type[Any]) -> Any:
    needed = _required_arguments(cls)
    if needed:
        raise TargetError(
            f"resolving the target {text!r} failed: {cls.__name__} needs {plural(len(needed), 'argument')} "
            f"({', '.join(needed)}) and a target gives none. "
            f"Add a line such as `model = {cls.__name__}(...)` to the file and name `model`."
        )
    return _calling_user_code(text, f"calling {cls.__name__}()", cls)


def _required_arguments(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in, without a signature
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in optional]


def _provided_inputs(text: str, module: ModuleType, dotted: str) -> Any:
    for name in (f"{dotted}_inputs", "gradcheck_inputs", "inputs"):
        value = getattr(module, name, None)
        if value is None:
            continue
        # With an argument it is a function of the check's random generator, which the check itself calls.
        if inspect.isfunction(value) and not _required_arguments(value):
            return _calling_user_code(text, f"calling {name}()", value)
        return value
    return None


def _calling_user_code(text: str, what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # somebody's code: it may raise anything, and what it raised stays the cause
        raise TargetError(
            f"resolving the target {text!r} failed: {what} raised {type(error).__name__}: {error}. "
            "Correct it there first; nothing was checked."
        ) from error


# ------------------------------------------------------------------------------------------------ model zoos


def _package(text: str, name: str, module: str = "") -> Any:
    if importlib.util.find_spec(name) is None:
        raise TargetError(
            f"resolving the target {text!r} failed: the package {name} is not installed. Run `pip install {name}`."
        )
    return importlib.import_module(module or name)


def _unknown(text: str, name: str, known: list[str]) -> TargetError:
    suggestion = nearest(name, known) or f"It knows {plural(len(known), 'model')}."
    return TargetError(f"resolving the target {text!r} failed: there is no model {name!r}. {suggestion}")


def _torchvision(text: str, name: str) -> Target:
    models = _package(text, "torchvision", "torchvision.models")
    known = models.list_models()
    if name not in known:
        raise _unknown(text, name, known)
    return Target(
        text, models.get_model(name, weights=None), note=f"torchvision's {name} with random weights"
    )


def _timm(text: str, name: str) -> Target:
    timm = _package(text, "timm")
    if not timm.is_model(name):
        raise _unknown(text, name, timm.list_models())
    return Target(text, timm.create_model(name, pretrained=False), note=f"timm's {name} with random weights")


def _transformers(text: str, name: str) -> Target:
    """``bert`` (a model type) or ``BertForMaskedLM`` (a class), as a tiny configuration with random weights."""
    transformers = _package(text, "transformers")
    types = list(transformers.CONFIG_MAPPING.keys())
    if name in types:
        config = _tiny(transformers.CONFIG_MAPPING[name]())
        model = _calling_user_code(
            text, f"building a tiny {name}", lambda: transformers.AutoModel.from_config(config)
        )
    else:
        cls: Any = getattr(transformers, name, None)
        if not isinstance(cls, type) or not hasattr(cls, "config_class") or cls.config_class is None:
            raise _unknown(text, name, types)
        config = _tiny(cls.config_class())
        model = _calling_user_code(text, f"building a tiny {name}", lambda: cls(config))
    return Target(text, model, note=f"transformers' {name} as a tiny configuration with random weights")


def _tiny(config: Any) -> Any:
    for key, value in _TINY.items():
        # Only what the configuration has, by its own name for it, and only ever smaller.
        present = getattr(config, key, None)
        if isinstance(present, int) and not isinstance(present, bool) and present > value:
            setattr(config, key, value)
    for key in ("text_config", "vision_config", "encoder", "decoder"):
        inner = getattr(config, key, None)
        if inner is not None and hasattr(inner, "to_dict"):
            _tiny(inner)
    # Attention kernels that exist only as fused operations would hide the arithmetic that is to be checked.
    config._attn_implementation = "eager"
    return config


_ZOOS: dict[str, Callable[[str, str], Target]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}
