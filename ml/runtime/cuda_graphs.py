"""Forward passes of short prompts, recorded as CUDA graphs.

A forward pass of a small model on a short prompt takes longer to launch, kernel by kernel from Python, than to compute.
So such passes are recorded once as CUDA graphs, for a few lengths, and a prompt of one token more or less is padded to
the next of them: padding stands on the right, where no position of a causal model sees it.

On a CPU nothing here does anything.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime.device import pinned

_log = logging.getLogger(__name__)

LENGTHS = (16, 32, 64, 128, 256)
"""Tokens of the passes that are recorded."""

_WARM_UPS = 3
_TOLERANCE = 5e-2
"""Of the largest logit: half precision rounds differently at another length, and a wrong pass is wrong at once."""


@dataclass(frozen=True)
class _Recorded:
    """A pass and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    ids: Tensor  # [1, length]
    last: Tensor  # [1], the position that is read out
    logits: Tensor  # [1, vocabulary], float32


class RecordedPasses:
    """Next-token logits of one short prompt. Not safe for use from several threads at once, as the model itself."""

    def __init__(self, module: PreTrainedModel, lengths: Sequence[int]) -> None:
        """Record a pass of each of the ascending `lengths`.

        Raises:
            RuntimeError: the model does what cannot be recorded, such as waiting for a result.
        """
        self._device = module.device
        self._passes: dict[int, _Recorded] = {}
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            # The longest first: the shorter ones find room in what it leaves of the pool that they share.
            for length in sorted(lengths, reverse=True):
                self._passes[length] = _record(module, length, stream, pool)
        torch.cuda.synchronize(self._device)
        self._lengths = sorted(self._passes)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor | None:
        """What follows `ids`, float32 [1, vocabulary]; None where no pass is long enough."""
        length = rounded_up(len(ids), self._lengths)
        if length is None:
            return None
        recorded = self._passes[length]
        padded = torch.zeros(1, length, dtype=torch.long)
        padded[0, : len(ids)] = torch.as_tensor(ids)
        recorded.ids.copy_(pinned(padded), non_blocking=True)
        recorded.last.fill_(len(ids) - 1)
        recorded.graph.replay()
        return recorded.logits.clone()  # the next replay writes over it


def _record(module: PreTrainedModel, length: int, stream: torch.cuda.Stream, pool: Any) -> _Recorded:
    ids = torch.zeros(1, length, dtype=torch.long, device=module.device)
    last = torch.zeros(1, dtype=torch.long, device=module.device)

    def run() -> Tensor:
        logits: Tensor = module(input_ids=ids, use_cache=False, logits_to_keep=last).logits[0]
        return logits.float()

    with torch.inference_mode():
        for _ in range(_WARM_UPS):  # libraries choose and load their kernels, which cannot be recorded
            run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            logits = run()
    return _Recorded(graph, ids, last, logits)


def record(module: PreTrainedModel, context_length: int) -> RecordedPasses | None:
    """Recorded passes of `module`; None on a CPU, and for a model that cannot be recorded or differs when replayed."""
    if module.device.type != "cuda":
        return None
    lengths = [length for length in LENGTHS if length <= context_length]
    if not lengths:
        return None
    try:
        passes = RecordedPasses(module, lengths)
        ids = [token % module.config.get_text_config().vocab_size for token in range(3, 3 + lengths[0] - 1)]
        replayed = passes.logits(ids)
        with torch.inference_mode():
            tensor = torch.tensor([ids], device=module.device)
            computed = module(input_ids=tensor, use_cache=False, logits_to_keep=1).logits[0].float()
        if replayed is not None and (replayed - computed).abs().max() <= _TOLERANCE * computed.abs().max():
            return passes
        _log.warning("recorded passes differ from computed ones, going on without them")
    except RuntimeError as error:
        _log.warning("the model cannot be recorded, going on without: %s", str(error).partition("\n")[0])
    return None


def rounded_up(length: int, lengths: Sequence[int]) -> int | None:
    """The smallest of the ascending `lengths` that is at least `length`; None where there is none."""
    place = bisect.bisect_left(lengths, length)
    return lengths[place] if place < len(lengths) else None
