"""The last layer computes only the rows whose logits are asked for.

The logits of most rows of a batch are not needed. In the last layer these rows matter only as keys and values of
others. So its queries, its output projection and its feed-forward network, a twelfth of the work of a model with twelve
layers, need only the rows that are asked for. Hooks around the layer do this in a model that is otherwise unmodified:
the layer runs once on all rows, up to its attention, and then once on the rows that count.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from ml.runtime.device import to_device
from ml.runtime.implementation import asked
from ml.runtime.preemption import end_if_preempted

IntArray = npt.NDArray[np.int64]

NO_MASK = torch.zeros(1, 1, 1, 1)
"""Already of the shape that attention takes, so transformers makes none of its own, which would cost [rows, rows]."""

WORTH_TRIMMING = 64
"""Rows that are not kept from which on the last layer runs on the others alone."""

_layers: WeakKeyDictionary[nn.Module, nn.ModuleList | None] = WeakKeyDictionary()
"""By model: to look for them takes longer than a layer of a short prompt."""

_UNSUPPORTED = ("position_bias", "indices")
"""Arguments with which models ask their attention for what rows of a ragged batch cannot have."""


class KeysKnownError(Exception):
    """No error: it leaves the layer, or the model, once the last layer's keys and values are known."""


@dataclass(frozen=True)
class LayerCall:
    """What a layer's attention is asked for besides queries, keys and values.

    Attributes:
        layer: its number.
        scale: multiplies the scores.
        arguments: whatever else the model hands to it, by transformers' names.
    """

    layer: int
    scale: float
    arguments: Mapping[str, Any]


class TrimmedForward(ABC):
    """What the hooks need to know of a forward pass of rows.

    On a CPU the model gets some rows more than there are, copies of the first: oneDNN makes a kernel for each number of
    rows that it has not seen, which takes longer than a short prompt's matmul and memory for good.

    Attributes:
        device: where the model is.
        count: how many rows there are.
        rows: how many the model gets.
        position_ids: theirs in their sequences, where the model is, [1, rows].
        rows_kept: the rows whose logits are asked for, each once, ascending.
        kept: the same where the model is, and again the last one as often as rows are added.
        trims: whether the last layer is to run on those alone.
        collecting: whether the last layer runs for its keys and values only.
        picked: whether it runs on the kept rows alone.
    """

    def __init__(self) -> None:
        self.count = self.rows = 0
        self.rows_kept = np.empty(0, dtype=np.int64)
        self.kept = self.position_ids = torch.empty(0, dtype=torch.long)
        self.device = torch.device("cpu")
        self._asked: Tensor | None = None
        self.trims = self.collecting = self.picked = False

    def lay_out(
        self, ids: IntArray, positions: IntArray, logit_rows: IntArray, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Note what there is to run. Returns ids, on the CPU, and positions as the model is to get them, [1, rows]."""
        self.device, self.count = device, len(ids)
        self.rows_kept, self._asked = logit_rows, None
        if (np.diff(logit_rows) <= 0).any():
            self.rows_kept, inverse = np.unique(logit_rows, return_inverse=True)
            self._asked = to_device(torch.from_numpy(inverse), device)
        self.rows, kept = self.count, len(self.rows_kept)
        if device.type == "cpu":
            self.rows, kept = _rounded(self.rows), _rounded(kept)
        self.kept = to_device(torch.from_numpy(_filled(self.rows_kept, kept, self.rows_kept[-1:])), device)
        # A second start has a price.
        self.trims = self.count - len(self.rows_kept) >= max(WORTH_TRIMMING, len(self.rows_kept))
        laid_ids, laid_positions = (
            torch.from_numpy(_filled(each, self.rows, each[:1])[None]) for each in (ids, positions)
        )
        self.position_ids = to_device(laid_positions, device)
        return laid_ids, self.position_ids

    def asked(self, logits: Tensor, kind: type[PreTrainedModel]) -> Tensor:
        """The logits of each row that was asked for, of what a model of some `kind` gives, [rows, vocabulary]."""
        if not _keeps(kind.forward):
            logits = logits[self.kept]
        logits = logits[: len(self.rows_kept)]
        return logits if self._asked is None else logits[self._asked]

    def attend(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What one layer's attention gives for the R rows.

        Args:
            query: [1, heads, R, size]; in a last layer that was trimmed, the kept rows only.
            key, value: [1, key heads, R, size]; each serves as many neighbouring heads as there are more of them.

        Returns:
            [1, R, heads, size], or the kept rows of it.

        Raises:
            NotImplementedError: the model asks for an attention of another kind.
            KeysKnownError: while collecting, once the keys and values are known.
            PreemptedError: the pass is to end early.
        """
        end_if_preempted()
        if any(call.arguments.get(name) is not None for name in _UNSUPPORTED):
            raise NotImplementedError(f"rows of a ragged batch cannot have attention with {', '.join(_UNSUPPORTED)}")
        count = len(self.rows_kept) if self.picked else self.count
        added = query.shape[2] - count
        if not added:
            return self.attend_rows(call, query, key, value)
        out = self.attend_rows(call, query[:, :, :count], key[:, :, :count], value[:, :, :count])
        return F.pad(out, (0, 0, 0, 0, 0, added))

    @abstractmethod
    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
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


def trim_last_layer(module: PreTrainedModel) -> Sequence[RemovableHandle]:
    """Let the last layer of `module` run on the rows asked for alone, in a forward pass of rows.

    Returns handles to undo it; none where no last layer is found.
    """
    layers = layers_of(module)
    if layers is None:
        return ()
    last = layers[-1]
    return (
        last.register_forward_pre_hook(_before, with_kwargs=True),
        last.register_forward_hook(_after, with_kwargs=True),
    )


def keep_last_layer_trimmed(module: PreTrainedModel) -> None:
    """As `trim_last_layer`, unless that was done before."""
    layers = layers_of(module)
    if layers is not None and _before not in layers[-1]._forward_pre_hooks.values():
        trim_last_layer(module)


def layers_of(module: PreTrainedModel) -> nn.ModuleList | None:
    """The layers of `module`, from the lowest up; None where they are not found."""
    if module not in _layers:
        _layers[module] = _find_layers(module)
    return _layers[module]


def _find_layers(module: PreTrainedModel) -> nn.ModuleList | None:
    layers = module.config.get_text_config().num_hidden_layers
    for part in (module, module.get_decoder()):  # the latter where the model also sees or hears, with as many layers
        children = part.modules() if part is not None else ()
        stacks = [child for child in children if isinstance(child, nn.ModuleList) and len(child) == layers]
        if len(stacks) == 1:
            return stacks[0]
    return None


def _before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """Collect the keys and values of all rows, then go on with the rows whose logits are asked for."""
    run = asked()
    if not isinstance(run, TrimmedForward) or not run.trims or not _by_rows(run, args, kwargs):
        return None
    with run.collected():
        layer.forward(*args, **kwargs)
    if not len(run.rows_kept):
        raise KeysKnownError
    run.picked = True
    rows = run.rows
    return (
        tuple(_pick(value, run.kept, rows) for value in args),
        {name: _pick(value, run.kept, rows) for name, value in kwargs.items()},
    )


def _after(_layer: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> Any:
    """Put the rows back in their places: what follows counts on as many as went in, and reads no others."""
    run = asked()
    if not isinstance(run, TrimmedForward) or not run.picked:
        return None
    run.picked = False
    if isinstance(output, tuple):
        return (_spread(output[0], run.kept[: len(run.rows_kept)], run.rows), *output[1:])
    return _spread(output, run.kept[: len(run.rows_kept)], run.rows)


def _by_rows(run: TrimmedForward, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the layer is given one hidden state of each row; some models carry several along, in shapes of theirs."""
    hidden = args[0] if args else kwargs.get("hidden_states")
    return isinstance(hidden, Tensor) and hidden.dim() == 3 and hidden.shape[:2] == (1, run.rows)


def _pick(value: Any, kept: Tensor, rows: int) -> Any:
    """The kept rows of whatever has a row for each row of the batch: hidden states, positions, their embeddings."""
    if isinstance(value, tuple):
        return tuple(_pick(each, kept, rows) for each in value)
    if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == (1, rows):
        return value[:, kept]
    if isinstance(value, Tensor) and value.dim() == 4 and value.shape[0] == 1 and value.shape[2] == rows:
        return value[:, :, kept]  # what a model gives its heads for each position
    return value


def _spread(hidden: Tensor, kept: Tensor, rows: int) -> Tensor:
    full = torch.zeros(1, rows, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    full[:, kept] = hidden[:, : len(kept)]
    return full


@cache
def _keeps(forward: Callable[..., Any]) -> bool:
    """Whether a model's forward gives the logits of chosen rows; some give those of all."""
    return "logits_to_keep" in inspect.signature(forward).parameters


def _rounded(rows: int) -> int:
    """The next power of two, from 16 on the next multiple of 16."""
    return 1 << (rows - 1).bit_length() if 0 < rows <= 16 else -(-rows // 16) * 16


def _filled(numbers: IntArray, count: int, filler: IntArray) -> IntArray:
    """`numbers`, and `filler`, a single one, behind them as often as `count` in all takes."""
    return np.concatenate([numbers, filler.repeat(count - len(numbers))])
