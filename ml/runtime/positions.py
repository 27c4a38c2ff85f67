"""Positions of rows, in models that count positions themselves instead of taking them from outside.

Some hand what they have counted to an embedding of positions, as `position_ids`; some leave the counting to it. In a
forward pass of rows it gets the rows' own in their place, so that the model stays unmodified otherwise.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from ml.runtime.implementation import asked
from ml.runtime.last_layer import TrimmedForward


def follow_rows(module: nn.Module) -> None:
    """Let the embeddings of positions in `module` look up those of rows, in a forward pass of rows."""
    for part in module.modules():
        own = isinstance(part, nn.Embedding) and type(part) is not nn.Embedding
        if own and "position_ids" in inspect.signature(part.forward).parameters and not part._forward_pre_hooks:
            part.register_forward_pre_hook(_positions_of_rows, with_kwargs=True)


def _positions_of_rows(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    run, counted = asked(), kwargs.get("position_ids")
    if not isinstance(run, TrimmedForward):
        return None
    # Of one sequence, where the embedding counts.
    positions = run.position_ids.view(counted.shape) if isinstance(counted, Tensor) else run.position_ids[0]
    return args, {**kwargs, "position_ids": positions}
