"""From logits to what explainers ask for: only numbers [prompts, tokens] leave the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ml.models.base import Batch
from ml.models.objective import Branch, branches
from ml.models.protocol import LogProbabilities, ModelInfo, Prefix
from ml.tokens import Tokenizer

_MAX_LOGITS = 1 << 25
"""Logits of one batch: every prompt's, [positions, vocabulary] each, are held until it ends."""


def log_probabilities(logits: Tensor, branch: Branch) -> Tensor:
    """Log-probabilities of the branch's tokens, float64 [n, tokens], from float32 [n, positions, vocabulary]."""
    top = logits.detach().amax(-1, keepdim=True)  # it cancels out, in gradients too
    # The sum over the vocabulary is where float32 would lose the last digits.
    totals = (logits - top).exp_().sum(-1, dtype=torch.float64).log_() + top.squeeze(-1)
    rows, tokens = (torch.tensor(each, device=logits.device) for each in (branch.rows, branch.tokens))
    return logits[:, rows, tokens] - totals[:, rows]


class LogitsModel(ABC):
    """A model that gives logits, as an `ml.models.protocol.ExplainableModel`."""

    info: ModelInfo
    tokenizer: Tokenizer

    @abstractmethod
    def logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None) -> list[Tensor]:
        """See `ml.models.base.LanguageModel.logits`."""

    @abstractmethod
    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        *,
        max_tokens: int,
        max_logits: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """See `ml.models.base.LanguageModel.stream_logits`."""

    def stream_log_probabilities(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        prefix: Prefix | None = None,
    ) -> Iterator[LogProbabilities]:
        """See `ExplainableModel.stream_log_probabilities`."""
        ways = branches(continuations)
        found = np.empty((len(prompts), sum(map(len, continuations))))
        unread = Counter(dict.fromkeys(range(len(prompts)), len(ways)))  # branches, by prompt
        for batch in self.stream_logits(
            [[*prompt, *branch.ids] for prompt in prompts for branch in ways],
            [branch.positions for _ in prompts for branch in ways],
            max_tokens=max_tokens,
            max_logits=max(sum(branch.positions for branch in ways), _MAX_LOGITS // self.info.vocabulary_size),
            prefix=prefix,
        ):
            sources = [divmod(index, len(ways)) for index in batch.indices]  # prompt and branch of each sequence
            for number, branch in enumerate(ways):
                mine = [prompt for prompt, way in sources if way == number]
                if mine:
                    pairs = zip(batch.logits, sources, strict=True)
                    logits = torch.stack([each for each, (_, way) in pairs if way == number])
                    found[np.ix_(mine, branch.columns)] = log_probabilities(logits, branch).cpu().numpy()
            unread.subtract(prompt for prompt, _ in sources)
            complete = [prompt for prompt in dict.fromkeys(prompt for prompt, _ in sources) if not unread[prompt]]
            yield LogProbabilities(complete, found[complete], batch.tokens_computed, batch.tokens_saved)

    def generate_greedily(self, ids: Sequence[int], max_tokens: int, *, banned: Collection[int] = ()) -> Iterator[int]:
        """See `ExplainableModel.generate_greedily`."""
        read = list(ids)
        for _ in range(max_tokens):
            logits = self.logits([read])[0][-1]
            if banned:
                logits = logits.index_fill(0, torch.tensor([*banned], device=logits.device), -torch.inf)
            token = int(logits.argmax())
            yield token
            if token in self.tokenizer.special.ends:
                return
            read.append(token)
