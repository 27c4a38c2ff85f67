"""What the layers of a Hugging Face model take from each token's value vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ml.errors import CapabilityError
from ml.language_model import AttentionSink
from ml.models.implementation import registered
from ml.runtime.last_layer import layers_of

_NOTHING = 1e-12  # a change of all positions together that is rounding


class Zeroing:
    """Which value vectors are zero in a batch, on its way to the attention function; see `attention_capture`."""

    def __init__(self, tokens: Tensor) -> None:
        """In sequence i of the batch those of token `tokens[i]`."""
        self._tokens = tokens
        self.zeroed = False

    def __len__(self) -> int:
        return len(self._tokens)

    def __call__(self, values: Tensor) -> Tensor:
        """`values` [n, heads, T, size] with zeros."""
        self.zeroed = True
        values = values.clone()
        values[torch.arange(len(values), device=values.device), :, self._tokens] = 0
        return values


class ValueZeroing:
    """The layers of a model, run again with the values of one token at a time set to zero."""

    def __init__(self, module: PreTrainedModel, name: str) -> None:
        """Of `module`, which callers know by `name`.

        Raises:
            CapabilityError: no layers can be told.
        """
        layers = layers_of(module)
        if layers is None:
            raise CapabilityError(name, f"the layers of {name!r} cannot be told apart; choose another method")
        self._module, self._layers, self._name = module, layers, name

    def shares(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """See `WhiteBox.value_zeroing`."""
        calls = list[tuple[tuple[Any, ...], dict[str, Any], Tensor]]()

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            calls.append((args, kwargs, _hidden(output)))

        hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in self._layers]
        try:
            with registered(self._module):
                self._module(input_ids=torch.tensor([list(ids)], device=self._module.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        yield len(ids) * len(self._layers)
        self._try(*calls[0][:2])
        batch = max(1, max_tokens // len(ids))
        for number, (layer, (args, kwargs, whole)) in enumerate(zip(self._layers, calls, strict=True)):
            changes = torch.zeros(len(ids), len(ids), device=whole.device)
            for tokens in torch.arange(len(ids), device=whole.device).split(batch):
                changed = self._run(layer, args, kwargs, Zeroing(tokens))
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
        hidden, *rest = args or (kwargs["hidden_states"],)
        repeated = hidden.expand(len(zeroing), -1, -1)
        with registered(self._module):
            if args:
                output = layer.forward(repeated, *rest, **kwargs, gloss_zeroing=zeroing)
            else:
                output = layer.forward(**{**kwargs, "hidden_states": repeated}, gloss_zeroing=zeroing)
        return _hidden(output)

    def _try(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out whether the first layer hands its values to the attention function, and on which terms."""
        zeroing = Zeroing(torch.zeros(1, dtype=torch.long, device=self._module.device))
        with suppress(TypeError):  # some models' layers take no arguments that they do not know
            self._run(self._layers[0], args, kwargs, zeroing)
        if not zeroing.zeroed:
            raise CapabilityError(
                self._name, f"model {self._name!r} keeps its value vectors to itself; choose another method"
            )


def _hidden(output: Any) -> Tensor:
    """A layer's output without what else it gives."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
