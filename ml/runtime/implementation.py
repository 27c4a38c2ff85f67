"""Which attention function a model's layers call: transformers' own choice, or within `registered` that of Gloss.

Some models ask for the name of their attention function and compute something else under a name that they do not know.
So the model's own forward keeps the name that transformers chose, and only what needs our function runs under ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

NAME = "gloss"
"""What transformers calls our attention function."""

_HOOKED = "_output_capturing_hooks_installed"
"""By which attribute transformers knows the modules whose layers have its hooks."""

_names: WeakKeyDictionary[nn.Module, list[tuple[Any, str, str]]] = WeakKeyDictionary()
"""By model: each of its configurations, the name that transformers chose for it, and the one within `registered`."""


def takes_function(module: PreTrainedModel) -> bool:
    """Whether `module`, or a model that it is made of, calls the attention function that its configuration names."""
    parts = (part for part in module.modules() if isinstance(part, PreTrainedModel))
    return any(part._can_set_attn_implementation() for part in parts)


def register(module: PreTrainedModel) -> bool:
    """Let `registered` switch `module` to our function; false where it does not take one from outside."""
    if not takes_function(module):
        return False
    found: list[Any] = [child.config for child in module.modules() if hasattr(child, "config")]
    configs = {id(config): config for config in found}
    chosen = [getattr(config, "_attn_implementation", None) for config in configs.values()]
    try:
        module.set_attn_implementation(NAME)
        _names[module] = [
            (config, name, config._attn_implementation)
            for config, name in zip(configs.values(), chosen, strict=True)
            if name is not None and config._attn_implementation != name
        ]
    finally:
        # Not by the name of the whole: a part of it, which hears or sees, may not know that one.
        for config, name in zip(configs.values(), chosen, strict=True):
            if name is not None:
                config._attn_implementation_internal = name
    return True


@contextmanager
def registered(module: PreTrainedModel) -> Iterator[None]:
    """Within, a module that was registered calls our attention function; any other one goes on as it is."""
    with _renamed([(config, ours) for config, _, ours in _names.get(module, ())]):
        yield


_wish: ContextVar[Any] = ContextVar("wish", default=None)


@contextmanager
def asking(wish: Any) -> Iterator[None]:
    """Within, calls of our attention function in this thread find `wish`: what is wanted of them beside attention.

    It does not travel with the call, as the layers of many models hand no arguments on that they do not know.
    """
    token = _wish.set(wish)
    try:
        yield
    finally:
        _wish.reset(token)


def asked() -> Any:
    """What the current call wants; None where it is plain attention."""
    return _wish.get()


@contextmanager
def eager(module: PreTrainedModel) -> Iterator[None]:
    """Within, a module computes its attention by plain operations, also one that takes no function from outside.

    Where it is asked for its weights meanwhile, the hooks that transformers puts on its layers go again: they would
    make every later pass slower.
    """
    configs = {id(child.config): child.config for child in module.modules() if hasattr(child, "config")}
    named = [config for config in configs.values() if getattr(config, "_attn_implementation", None) is not None]
    with _renamed([(config, "eager") for config in named]), _without_new_hooks(module):
        yield


@contextmanager
def _without_new_hooks(module: PreTrainedModel) -> Iterator[None]:
    """Let the hooks that transformers puts on a module's layers within, to keep what they give, go again."""
    hooks = {part: set(part._forward_hooks) for part in module.modules()}
    marked = {part for part in hooks if _HOOKED in part.__dict__}
    try:
        yield
    finally:
        fresh = [part for part in hooks if _HOOKED in part.__dict__ and part not in marked]
        for part in fresh:
            del part.__dict__[_HOOKED]
        if fresh:
            for part, before in hooks.items():
                for key in set(part._forward_hooks) - before:
                    del part._forward_hooks[key]


@contextmanager
def _renamed(names: Sequence[tuple[Any, str]]) -> Iterator[None]:
    """Within, each configuration names another attention function. Masks are made for the function that is named."""
    before = [(config, config._attn_implementation) for config, _ in names]
    try:
        for config, name in names:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
