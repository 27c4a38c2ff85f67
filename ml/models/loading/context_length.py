"""How many tokens a Hugging Face model reads at most."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from ml.models.verification.shrinking import shrunken

UNBOUNDED = 2048
"""For a model that knows no bound of its own: its prompts must end somewhere."""

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions")
_TRIED = 4
_MAX_UNREADABLE = 4


def context_length(module: PreTrainedModel) -> int:
    """What the configuration says, or less where a table of positions has fewer rows.

    Such a table may begin behind some rows that no position has: RoBERTa says 514 and reads 512. A longer prompt would
    fail in the middle of the model; on a GPU that ends the whole process.
    """
    stated, tables = _stated(module.config.get_text_config()), _table_lengths(module)
    return min([stated, *tables]) - _unreadable(module) if tables else stated


def _unreadable(module: PreTrainedModel) -> int:
    """How many tokens less than its tables have rows for the code of `module` reads, as a small model of it shows."""
    small = shrunken(module)
    if small is None:
        return 0
    longest = min([_stated(small.config.get_text_config()), *_table_lengths(small)])
    for fewer in range(_MAX_UNREADABLE):
        with suppress(Exception), torch.inference_mode():  # each architecture fails in its own way
            small(input_ids=_ids(small, longest - fewer), use_cache=False)
            return fewer
    return 0


def _stated(config: PreTrainedConfig) -> int:
    for key in _NAMES:
        length = getattr(config, key, None)
        if isinstance(length, int) and length > 0:
            return length
    return UNBOUNDED


def _table_lengths(module: PreTrainedModel) -> list[int]:
    """How many positions each table of positions has rows for, of those that a forward pass uses."""
    tokens = module.get_input_embeddings()
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding) and part is not tokens]
    if not tables:
        return []
    ids = _ids(module, _TRIED)
    found: dict[nn.Embedding, int] = {}

    def note(table: nn.Embedding) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            length = _length(table, ids, [*args, *kwargs.values()])
            if length is not None:
                found[table] = length

        return hook

    hooks = [table.register_forward_pre_hook(note(table), with_kwargs=True) for table in tables]
    try:
        with suppress(Exception), torch.inference_mode():  # what cannot run is refused later, with the reason
            module(input_ids=ids, use_cache=False)
    finally:
        for each in hooks:
            each.remove()
    return list(found.values())


def _length(table: nn.Embedding, ids: Tensor, arguments: list[Any]) -> int | None:
    """How many positions `table` has rows for, by what it is asked for; None where that is no row for each position."""
    if type(table) is not nn.Embedding:
        # It finds the positions by itself, and may begin behind some rows (`offset` in the code of OPT and BART).
        named = "position" in type(table).__name__.lower()
        return table.num_embeddings - int(getattr(table, "offset", 0)) if named else None
    asked = next((each for each in arguments if isinstance(each, Tensor)), None)
    if asked is None or asked.is_floating_point() or asked.numel() != ids.numel():
        return None
    rows = asked.flatten().tolist()
    first = int(rows[0])
    return table.num_embeddings - first if rows == list(range(first, first + len(rows))) else None


def _ids(module: PreTrainedModel, count: int) -> Tensor:
    """A prompt of the same token again and again, which is not the padding: no positions could be mistaken for it."""
    padding = getattr(module.config.get_text_config(), "pad_token_id", None)
    token = next(each for each in (3, 4) if each != padding)
    return torch.full((1, count), token, device=module.device)
