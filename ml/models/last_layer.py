"""The last layer's share: rows that are not read out end there as keys and values.

Of most packed rows nobody asks for logits. In the last layer they matter only as keys and values of others, so its
queries, its output projection and its feed-forward network, a twelfth of the work of a model with twelve layers, need
the rows that are read out alone. Hooks around the layer see to it, in a model that stays unmodified otherwise: the
layer runs once on all rows, up to its attention, and then once on the rows that are read out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ml.models.cuda import to_device

IntArray = npt.NDArray[np.int64]

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments with which models ask their attention for more than a softmax over the visible scores."""


class KeysKnownError(Exception):
    """No error: it leaves the layer, or the model, once the last layer's keys and values are known."""


class TrimmedRun(ABC):
    """What the hooks need to know of a run of packed rows.

    On a CPU the model gets some rows more than there are, copies of the first: oneDNN makes a kernel for each number of
    rows that it has not seen, which takes longer than a short prompt's product and memory for good.

    Attributes:
        count: how many rows there are.
        rows: how many the model gets.
        readout: which of them are read out, int64.
        picks: `readout`, and again its last one, as often as rows are added.
        trims: whether the last layer is to run on those alone.
        collecting: whether the last layer is under way for its keys and values only.
        picked: whether it is under way on the read-out rows alone.
    """

    def __init__(self) -> None:
        self.count = self.rows = 0
        self.readout = self.picks = torch.empty(0, dtype=torch.long)
        self.trims = self.collecting = self.picked = False

    def lay_out(
        self, ids: IntArray, positions: IntArray, readout: IntArray, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Note what there is to run. Returns ids, on the CPU, and positions as the model is to get them, [1, rows]."""
        self.count, self.readout = len(ids), torch.from_numpy(readout).to(device)
        self.rows, picks = self.count, len(readout)
        if device.type == "cpu":
            self.rows, picks = _rounded(self.rows), _rounded(picks)
        self.picks = self.readout[torch.arange(picks, device=device).clamp_(max=len(readout) - 1)]
        taken = torch.arange(self.rows)
        taken[self.count :] = 0
        laid_ids, laid_positions = (torch.from_numpy(each)[taken].unsqueeze(0) for each in (ids, positions))
        return laid_ids, to_device(laid_positions, device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, **kwargs: Any) -> Tensor:
        """What one layer's attention gives for the run's R rows.

        Args:
            layer: its number.
            query: [1, heads, R, size]; in a last layer that was trimmed, the read-out rows only.
            key, value: [1, key heads, R, size]; each serves as many neighbouring heads as there are more of them.
            scale: multiplies the scores.
            kwargs: whatever else the model hands to its attention.

        Returns:
            [1, R, heads, size], or the read-out rows of it.

        Raises:
            NotImplementedError: the model asks for an attention of another kind.
            KeysKnownError: while collecting, once the keys and values are known.
        """
        refuse_unsupported(kwargs)
        count = len(self.readout) if self.picked else self.count
        out = self.attend_rows(layer, query[:, :, :count], key[:, :, :count], value[:, :, :count], scale)
        added = query.shape[2] - count
        return F.pad(out, (0, 0, 0, 0, 0, added)) if added else out

    @abstractmethod
    def attend_rows(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """As `attend`, of the rows that there are."""

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Within, attention is to keep the keys and values that it is handed, and to leave by `KeysKnownError`."""
        self.collecting = True
        try:
            with suppress(KeysKnownError):
                yield
        finally:
            self.collecting = False


def refuse_unsupported(kwargs: Mapping[str, Any]) -> None:
    """Raise `NotImplementedError` where a model asks its attention, by `kwargs`, for more than packed rows can have."""
    if any(kwargs.get(name) is not None for name in _UNSUPPORTED):
        raise NotImplementedError(f"attention with {', '.join(_UNSUPPORTED)} cannot be packed")


def trim_last_layer(module: PreTrainedModel) -> Sequence[RemovableHandle]:
    """Let the last layer of `module` run on read-out rows alone when called with ``gloss_packed``.

    Returns handles to undo it; none where no last layer can be told.
    """
    layers = layers_of(module)
    if layers is None:
        return ()
    last = layers[-1]
    return (
        last.register_forward_pre_hook(_before, with_kwargs=True),
        last.register_forward_hook(_after, with_kwargs=True),
    )


def layers_of(module: PreTrainedModel) -> nn.ModuleList | None:
    """The layers of `module`, from the lowest up; None where they cannot be told."""
    layers = module.config.get_text_config().num_hidden_layers
    stacks = [child for child in module.modules() if isinstance(child, nn.ModuleList) and len(child) == layers]
    return stacks[0] if len(stacks) == 1 else None


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
        tuple(_pick(value, run.picks, rows) for value in args),
        {name: _pick(value, run.picks, rows) for name, value in kwargs.items()},
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
    full[:, readout] = hidden[:, : len(readout)]
    return full


def _rounded(rows: int) -> int:
    """The next power of two, from 16 on the next multiple of 16."""
    return 1 << (rows - 1).bit_length() if 0 < rows <= 16 else -(-rows // 16) * 16
