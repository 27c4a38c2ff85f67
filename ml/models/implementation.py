"""Which attention function a model's layers call: transformers' own choice, or within `registered` that of Gloss.

Some models ask for the name of their attention function and compute something else under a name that they do not know.
So the model's own forward keeps the name that transformers chose, and only what needs our function runs under ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PreTrainedModel

NAME = "gloss"
"""What transformers calls our attention function."""

_names: WeakKeyDictionary[nn.Module, list[tuple[Any, str, str]]] = WeakKeyDictionary()
"""By model: each of its configurations, the name that transformers chose for it, and the one within `registered`."""


def register(module: PreTrainedModel) -> bool:
    """Let `registered` switch `module` to our function; false where it does not take one from outside."""
    if not module._can_set_attn_implementation():
        return False
    found: list[Any] = [child.config for child in module.modules() if hasattr(child, "config")]
    configs = {id(config): config for config in found}
    chosen = [getattr(config, "_attn_implementation", None) for config in configs.values()]
    top = module.config._attn_implementation
    module.set_attn_implementation(NAME)
    _names[module] = [
        (config, name, config._attn_implementation)
        for config, name in zip(configs.values(), chosen, strict=True)
        if name is not None and config._attn_implementation != name
    ]
    module.set_attn_implementation(top)
    for config, name, _ in _names[module]:
        config._attn_implementation_internal = name
    return True


@contextmanager
def registered(module: PreTrainedModel) -> Iterator[None]:
    """Within, a module that was registered calls our attention function; any other one goes on as it is."""
    names = _names.get(module, ())
    try:
        for config, _, ours in names:
            config._attn_implementation_internal = ours
        yield
    finally:
        for config, chosen, _ in names:
            config._attn_implementation_internal = chosen
