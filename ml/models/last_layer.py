"""The last layer's share: rows that are not read out end there as keys and values.

Of most packed rows nobody asks for logits. In the last layer they matter only as keys and values of others, so its
queries, its output projection and its feed-forward network, a twelfth of the work of a model with twelve layers, need
the rows that are read out alone. Hooks around the layer see to it, in a model that stays unmodified otherwise: the
layer runs once on all rows, up to its attention, and then once on the rows that are read out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel


class KeysKnownError(Exception):
    """No error: it leaves the layer, or the model, once the last layer's keys and values are known."""


class TrimmedRun:
    """What the hooks need to know of a run of packed rows.

    Attributes:
        rows: how many there are.
        readout: which of them are read out, int64.
        trims: whether the last layer is to run on those alone.
        collecting: whether the last layer is under way for its keys and values only.
        picked: whether it is under way on the read-out rows alone.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.readout = torch.empty(0, dtype=torch.long)
        self.trims = self.collecting = self.picked = False

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Within, attention is to keep the keys and values that it is handed, and to leave by `KeysKnownError`."""
        self.collecting = True
        try:
            with suppress(KeysKnownError):
                yield
        finally:
            self.collecting = False

    def spread(self, picked: Tensor) -> Tensor:
        """[heads, read-out rows, size] to [heads, rows, size], zero elsewhere."""
        full = picked.new_zeros(picked.shape[0], self.rows, picked.shape[2])
        full[:, self.readout] = picked
        return full


def trim_last_layer(module: PreTrainedModel) -> Sequence[RemovableHandle]:
    """Let the last layer of `module` run on read-out rows alone when called with ``gloss_packed``.

    Returns handles to undo it; none where no last layer can be told.
    """
    layers = module.config.get_text_config().num_hidden_layers
    stacks = [child for child in module.modules() if isinstance(child, nn.ModuleList) and len(child) == layers]
    if len(stacks) != 1:
        return ()
    last = stacks[0][-1]
    return (
        last.register_forward_pre_hook(_before, with_kwargs=True),
        last.register_forward_hook(_after, with_kwargs=True),
    )


def _before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """Collect the keys and values of all rows, then go on with the rows that are read out."""
    run: TrimmedRun | None = kwargs.get("gloss_packed")
    if run is None or not run.trims:
        return None
    with run.collected():
        layer.forward(*args, **kwargs)
    if not len(run.readout):
        raise KeysKnownError
    run.picked = True
    rows = run.rows
    return (
        tuple(_pick(value, run.readout, rows) for value in args),
        {name: _pick(value, run.readout, rows) for name, value in kwargs.items()},
    )


def _after(_layer: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    """Put the rows back in their places: what follows counts on as many as went in, and reads no others."""
    run: TrimmedRun | None = kwargs.get("gloss_packed")
    if run is None or not run.trims:
        return None
    run.picked = False
    if isinstance(output, tuple):
        return (_spread(output[0], run.readout, run.rows), *output[1:])
    return _spread(output, run.readout, run.rows)


def _pick(value: Any, readout: Tensor, rows: int) -> Any:
    """The read-out rows of whatever has a row for each packed row: hidden states, positions, their embeddings."""
    if isinstance(value, tuple):
        return tuple(_pick(each, readout, rows) for each in value)
    if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == (1, rows):
        return value[:, readout]
    return value


def _spread(hidden: Tensor, readout: Tensor, rows: int) -> Tensor:
    full = torch.zeros(1, rows, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    full[:, readout] = hidden
    return full
