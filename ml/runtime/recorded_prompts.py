"""Next-token logits of a few short prompts by recorded passes; see `ml.runtime.cuda_graphs`.

Passes are recorded for a few numbers of prompts and a few lengths. Prompts of fewer tokens are padded on the right,
where no position of a causal model sees it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime import kernels
from ml.runtime.cuda_graphs import Recorder, agree, rounded_up
from ml.runtime.device import pinned
from ml.runtime.implementation import asking, registered
from ml.runtime.kernels import Scores
from ml.runtime.last_layer import NO_MASK, LayerCall, TrimmedForward
from ml.runtime.ragged_batch import Span
from ml.runtime.spans import SpanOf

_log = logging.getLogger(__name__)

LENGTHS = (16, 32, 64, 128, 256)
"""Tokens of each prompt of a pass."""

COUNTS = (1, 2, 4, 8, 16, 32, 64)
"""Prompts of a pass. Those of one are recorded when the model is loaded, others once they are asked for again."""

_MAX_TOKENS = 4096
_MAX_OPERATIONS = 2e12
"""Of a pass of several prompts, padding included: a few milliseconds. Longer ones gain more from what is cached of
them and from what they share than from being launched at once."""


class PaddedPrompts(TrimmedForward):
    """Prompts of one length on their way through a model, as rows one prompt behind the other.

    All that a pass reads lies in memory of its own, and nothing of it comes from the CPU.
    """

    def __init__(self, module: PreTrainedModel, span_of: SpanOf, count: int, length: int) -> None:
        """Prepare for `count` prompts of `length` tokens."""
        super().__init__()
        self._module, self._span_of = module, span_of
        self._prompts, self._length = count, length
        device = self.device = module.device
        self.count = self.rows = count * length
        self.rows_kept = np.arange(count)
        self.ids = torch.zeros(count, length, dtype=torch.long, device=device)
        """[count, length]; what is behind a prompt's last token counts for nothing."""
        self.kept = torch.zeros(count, dtype=torch.long, device=device)
        """The row of each prompt's last token."""
        self.position_ids = torch.arange(length, device=device).repeat(count)[None]
        self._no_mask = NO_MASK.to(device)
        self._masks: dict[tuple[Span, int], Tensor] = {}

    def set(self, prompts: Sequence[Sequence[int]]) -> None:
        """Let the first prompts of the next pass be these."""
        numbers = torch.zeros(self._prompts, self._length + 1, dtype=torch.long)
        for row, ids in enumerate(prompts):
            numbers[row, : len(ids)] = torch.as_tensor(ids)
            numbers[row, self._length] = row * self._length + len(ids) - 1
        there = pinned(numbers).to(self.device, non_blocking=True)
        self.ids.copy_(there[:, : self._length])
        self.kept.copy_(there[:, self._length])

    def run(self) -> Tensor:
        """What follows each prompt, float32 [count, vocabulary]."""
        module = self._module
        with registered(module), asking(self):
            logits: Tensor = module(
                input_ids=self.ids.view(1, -1),
                position_ids=self.position_ids,
                attention_mask=self._no_mask,
                use_cache=False,
                logits_to_keep=self.kept,
            ).logits[0]
        return self.asked(logits, type(module)).float()

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        heads, key_heads = query.shape[1], key.shape[1]
        by_prompt = (-1, self._length)
        queries = kernels.fold(query[0].transpose(0, 1).unflatten(0, by_prompt), key_heads)
        keys, values = (each[0].transpose(0, 1).unflatten(0, by_prompt).transpose(1, 2) for each in (key, value))
        scores = Scores.of(call.scale, call.arguments)
        mask = self._mask(self._span_of(call.layer, call.arguments), heads // key_heads, query.dtype)
        out, lse = kernels.attend(queries, keys, values, scores, mask)
        out = kernels.unfold(out, heads).flatten(0, 1)
        if scores.sinks is not None:
            out = kernels.with_sinks(out, kernels.unfold(lse, heads).flatten(0, 1), scores.sinks)
        return out.unsqueeze(0)

    def _mask(self, span: Span, groups: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of a prompt, [1, 1, groups · length, length]."""
        if (span, groups) not in self._masks:
            positions = np.arange(self._length)
            visible = (positions <= positions[:, None]) & (positions >= span.first(positions)[:, None])
            mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(torch.from_numpy(~visible), float("-inf"))
            self._masks[span, groups] = mask.repeat(groups, 1)[None, None].to(self.device)
        return self._masks[span, groups]


@dataclass(frozen=True)
class _Recorded:
    """A pass, by what it reads from and writes to."""

    prompts: PaddedPrompts
    replay: Callable[[], None]
    logits: Tensor  # [count, vocabulary]


class RecordedPrompts:
    """Recorded passes of a model. Not safe for use from several threads at once, as the model itself."""

    def __init__(self, module: PreTrainedModel, span_of: SpanOf, lengths: Sequence[int]) -> None:
        """Record a pass of one prompt of each of the ascending `lengths`.

        Raises:
            RuntimeError: the model does what cannot be recorded, such as waiting for a result.
        """
        self._module, self._span_of, self._lengths = module, span_of, list(lengths)
        self._recorder = Recorder(module.device)
        operations = 2 * max(1, module.num_parameters())  # of a token
        self._max_tokens = min(_MAX_TOKENS, int(_MAX_OPERATIONS / operations))
        self._asked: Counter[tuple[int, int]] = Counter()
        # The longest first: the shorter ones find room in what it leaves of the memory that they share.
        self._passes: dict[tuple[int, int], _Recorded | None] = {
            (1, length): self._record(1, length) for length in sorted(lengths, reverse=True)
        }

    @torch.inference_mode()
    def logits(self, prompts: Sequence[Sequence[int]]) -> Tensor | None:
        """What follows each prompt, float32 [prompts, vocabulary]; None where no such pass is recorded."""
        recorded = self._pass(prompts)
        if recorded is None:
            return None
        recorded.prompts.set(prompts)
        recorded.replay()
        return recorded.logits[: len(prompts)].clone()  # the next replay writes over it

    def _pass(self, prompts: Sequence[Sequence[int]]) -> _Recorded | None:
        count, length = rounded_up(len(prompts), COUNTS), rounded_up(max(map(len, prompts)), self._lengths)
        if count is None or length is None or (count > 1 and count * length > self._max_tokens):
            return None
        key = count, length
        if key not in self._passes:
            self._asked[key] += 1
            if self._asked[key] == 1:
                return None
            try:
                self._passes[key] = self._record(count, length)
            except RuntimeError as error:
                _log.warning("passes of %d prompts cannot be recorded: %s", count, str(error).partition("\n")[0])
                self._passes[key] = None
        return self._passes[key]

    def _record(self, count: int, length: int) -> _Recorded:
        prompts = PaddedPrompts(self._module, self._span_of, count, length)
        return _Recorded(prompts, *self._recorder.record(prompts.run))


def record(module: PreTrainedModel, span_of: SpanOf, context_length: int) -> RecordedPrompts | None:
    """Recorded passes of `module`; None on a CPU, and for a model that cannot be recorded or differs when replayed.

    Args:
        context_length: of the longest prompt that its rows and its padded batches are right for.
    """
    if module.device.type != "cuda":
        return None
    lengths = [length for length in LENGTHS if length <= context_length]
    if not lengths:
        return None
    try:
        passes = RecordedPrompts(module, span_of, lengths)
        vocabulary_size = module.config.get_text_config().vocab_size
        ids = [token % vocabulary_size for token in range(3, 3 + lengths[0] - 1)]
        replayed = passes.logits([ids])
        with torch.inference_mode():
            tensor = torch.tensor([ids], device=module.device)
            computed = module(input_ids=tensor, use_cache=False).logits[0, -1:].float()
        if replayed is not None and agree(replayed, computed):
            return passes
        _log.warning("recorded passes differ from computed ones, going on without them")
    except RuntimeError as error:
        _log.warning("the model cannot be recorded, going on without: %s", str(error).partition("\n")[0])
    return None
