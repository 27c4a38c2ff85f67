"""Lengths at which a model begins to compute something else, as far as its configuration says.

Up to a sliding window, a chunk, the number of keys that a sparse attention picks, or the length up to which one set of
rotary factors holds, such a model is an ordinary one. Nothing names these numbers in the same way for all models, so
every number whose name sounds like one of them counts: one too many costs a trial, one too few costs right answers.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

_BOUNDS = re.compile(r"window|chunk|local|block_size|span|topk|top_k|attention_(length|context|size)|max_len|lsh")
_NO_BOUNDS = re.compile(r"expert|moe|router|group|^top_?k$|global|theta|layer|period|dim|pattern|_ids|num_")
ROTARY = "original_max_position_embeddings"
"""Where one set of rotary factors ends and another begins, where there are two."""
_COMPARES_NAMES = re.compile(r"_attn_implementation\s*(==|!=|\bin\b|\bnot\s+in\b)")


@dataclass(frozen=True, order=True)
class Bound:
    """A number of tokens up to which a model is an ordinary one.

    Attributes:
        tokens: that number.
        whole: whether a longer prompt changes what the model makes of all of its tokens, also of the first ones.
    """

    tokens: int
    whole: bool = False


def bounds(module: PreTrainedModel, context_length: int) -> list[Bound]:
    """The bounds of a model that prompts of up to `context_length` tokens can exceed, ascending."""
    config = module.config.get_text_config().to_dict()
    found = {Bound(value, whole=path[-1] == ROTARY) for path, value in bound_names(config)}
    return sorted(bound for bound in found if 1 < bound.tokens < context_length)


def compares_names(module: PreTrainedModel) -> bool:
    """Whether the code of a model asks for the name of its attention function."""
    try:
        source = inspect.getsource(sys.modules[type(module).__module__])
    except (OSError, KeyError):
        return True
    return _COMPARES_NAMES.search(source) is not None


def bound_names(config: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], int]]:
    """The numbers of a configuration that are bounds, with the names that lead to them."""
    kind = str(config.get("rope_type", config.get("type", "")))
    for name, value in ((str(key), value) for key, value in config.items()):
        if isinstance(value, Mapping):
            yield from (((name, *path), found) for path, found in bound_names(value))
        elif name == ROTARY:
            # Other kinds than these scale by factors of their own, whatever the prompt's length.
            if isinstance(value, int) and (kind == "longrope" or "dynamic" in kind):
                yield (name,), value
        elif _BOUNDS.search(name) and not _NO_BOUNDS.search(name):
            for each in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(each, int) and not isinstance(each, bool):
                    yield (name,), each
