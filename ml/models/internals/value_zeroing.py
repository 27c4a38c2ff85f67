"""What the layers of a Hugging Face model take from each token's value vectors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ml.errors import CapabilityError
from ml.models.base import AttentionSink
from ml.runtime.implementation import asked, asking, eager, registered
from ml.runtime.last_layer import layers_of

_NOTHING = 1e-12  # a change of all positions together that is rounding


class Zeroing:
    """Which value vectors are zero in a batch, on its way to the attention function; see `attention_capture`."""

    def __init__(self, tokens: Tensor, length: int) -> None:
        """In sequence i of the batch, of `length` tokens, those of token `tokens[i]`."""
        self._tokens, self._length = tokens, length
        self.zeroed = False

    def __len__(self) -> int:
        return len(self._tokens)

    def __call__(self, values: Tensor) -> Tensor:
        """`values` [n, heads, T, size] with zeros.

        Raises:
            ValueError: they are not one of each token.
        """
        if values.shape[2] != self._length:
            raise ValueError("its value vectors are of others than the prompt's tokens")
        self.zeroed = True
        values = values.clone()
        values[torch.arange(len(values), device=values.device), :, self._tokens] = 0
        return values


class ValueZeroing:
    """The layers of a model, run again with the values of one token at a time set to zero."""

    def __init__(self, module: PreTrainedModel, name: str, *, renamed: bool = True) -> None:
        """Of `module`, which callers know by `name`.

        Args:
            renamed: whether it computes the same with our attention function. Otherwise it goes by its own eager one.

        Raises:
            CapabilityError: no layers can be told.
        """
        layers = layers_of(module)
        if layers is None:
            raise CapabilityError(name, f"the layers of {name!r} cannot be told apart; choose another method")
        self._module, self._layers, self._name, self._renamed = module, layers, name, renamed

    def _registered(self) -> AbstractContextManager[None]:
        """What the layers run within."""
        if self._renamed:
            return registered(self._module)
        _open_eager(self._module)
        return eager(self._module)

    def shares(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """See `OpenModel.value_zeroing`."""
        calls = list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]()

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.append((args, kwargs, _by_position(output, _batch_dimension(_input(args, kwargs)))))

        hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in self._layers]
        try:
            with self._registered():
                self._module(input_ids=torch.tensor([list(ids)], device=self._module.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        yield len(ids) * len(self._layers)
        together = self._try(*calls[0][:2], len(ids))
        batch = max(1, max_tokens // len(ids)) if together else 1
        for number, (layer, (args, kwargs, whole)) in enumerate(zip(self._layers, calls, strict=True)):
            changes = torch.zeros(len(ids), len(ids), device=whole.device)
            for tokens in torch.arange(len(ids), device=whole.device).split(batch):
                changed = self._run(layer, args, kwargs, Zeroing(tokens, len(ids)))
                # The cosine distance, without taking a number near 1 from 1.
                apart = F.normalize(changed.float(), dim=-1) - F.normalize(whole.float(), dim=-1)
                changes[:, tokens] = apart.square().sum(-1).T / 2
                yield len(tokens) * len(ids)
            changes.tril_()  # a position does not see the tokens behind it; what differs there is rounding
            total = changes.sum(1, keepdim=True)
            alone = torch.eye(len(ids), device=whole.device)  # what nothing changes depends on itself
            sink(number, torch.where(total > _NOTHING, changes / total, alone).unsqueeze(0))

    def _run(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], zeroing: Zeroing) -> Tensor:
        """The layer's output [n, T, size] with the values of n tokens zero, one in each sequence."""
        hidden, rest = _input(args, kwargs), args[1:]
        shape, batch = list(hidden.shape), _batch_dimension(hidden)
        shape[batch] = len(zeroing)
        repeated = hidden.expand(shape)
        with self._registered(), asking(zeroing):
            if args:
                output = layer.forward(repeated, *rest, **kwargs)
            else:
                output = layer.forward(**{**kwargs, "hidden_states": repeated})
        return _by_position(output, batch)

    def _try(self, args: tuple[Any, ...], kwargs: dict[str, Any], length: int) -> bool:
        """Find out whether the first layer hands its values to the attention function, and takes a batch."""
        tokens = torch.zeros(2, dtype=torch.long, device=self._module.device)
        zeroing = Zeroing(tokens[:1], length)
        self._run(self._layers[0], args, kwargs, zeroing)
        if not zeroing.zeroed:
            raise CapabilityError(
                self._name, f"model {self._name!r} keeps its value vectors to itself; choose another method"
            )
        try:
            self._run(self._layers[0], args, kwargs, Zeroing(tokens, length))
        except (RuntimeError, IndexError, ValueError):  # what it is handed beside is of one sequence
            return False
        return True


def _open_eager(module: PreTrainedModel) -> None:
    """Let the eager attention of a model's own code find which values are to be zero, and change nothing else."""
    code = sys.modules[type(module).__module__]
    attend = getattr(code, "eager_attention_forward", None)
    if attend is None or hasattr(attend, "gloss_plain"):
        return

    def attending(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        wish = asked()
        return attend(module, query, key, wish(value) if isinstance(wish, Zeroing) else value, *args, **kwargs)

    attending.gloss_plain = attend  # type: ignore[attr-defined]
    code.eager_attention_forward = attending  # type: ignore[attr-defined]


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is called with."""
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _batch_dimension(hidden: Tensor) -> int:
    """Which dimension of one sequence's hidden states is the batch's, of size 1.

    Some models carry several hidden states of a position along: [streams, 1, T, size], or [1, T, streams, size].
    """
    return 1 if hidden.dim() == 4 and hidden.shape[1] == 1 else 0


def _by_position(output: Any, batch: int) -> Tensor:
    """A layer's output without what else it gives, [n, T, size]: a position's states one behind the other."""
    hidden: Tensor = output[0] if isinstance(output, tuple | list) else output
    return (hidden.permute(1, 2, 0, 3) if batch else hidden).flatten(2)
