"""A word-level LSTM behind `LanguageModel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ml.errors import ModelLoadError, NoAttentionError
from ml.kernels.onednn_linear import use_fast_layers
from ml.models.base import AttentionSink, Batch, Chunk, ModelInfo, Prefix
from ml.models.fallback.serial_runner import SerialRunner
from ml.models.internals.objective import LogitsObjective
from ml.models.internals.open_model import OpenModel
from ml.models.lstm.files import load_module
from ml.models.lstm.network import State, WordLSTM
from ml.models.lstm.sharing import LstmPrefix, stream
from ml.models.protocol import RoundedModel
from ml.runtime.embedding import lookup
from ml.tokens import Tokenizer


class LstmModel(OpenModel):
    """A `WordLSTM` behind the `LanguageModel` protocol."""

    def __init__(self, module: WordLSTM, tokenizer: Tokenizer, info: ModelInfo) -> None:
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.info = info

    @torch.inference_mode()
    def logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None) -> list[Tensor]:
        """Next-token logits after the last `logit_counts[i]` positions of sequence i; see `LanguageModel.logits`.

        What all sequences begin with is read once: its hidden state is handed to every one of them.
        """
        lengths = [len(ids) for ids in sequences]
        logit_counts = [1] * len(sequences) if logit_counts is None else logit_counts
        device = self.module.embedding.weight.device
        shared = _shared_prefix(sequences, logit_counts)
        state = self.module.initial_state(1)
        if shared:
            _, state = self.module(torch.tensor([list(sequences[0][:shared])], device=device), state)
        state = [(h.repeat(1, len(sequences), 1), c.repeat(1, len(sequences), 1)) for h, c in state]
        # Padding on the right is never seen: the model reads from left to right.
        ids = torch.zeros(len(sequences), max(lengths) - shared, dtype=torch.long)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence) - shared] = torch.tensor(sequence[shared:])
        hidden, _ = self.module(ids.to(device), state)
        wanted = [
            hidden[i, n - shared - tail : n - shared]
            for i, (n, tail) in enumerate(zip(lengths, logit_counts, strict=True))
        ]
        logits: Tensor = self.module.head(torch.cat(wanted))
        return list(logits.float().split(list(logit_counts)))

    @torch.inference_mode()
    def read_prefix(self, ids: Sequence[int]) -> LstmPrefix:
        """Read a prefix once for all sequences to come; see `LanguageModel.read_prefix`."""
        device = self.module.embedding.weight.device
        _, state = self.module(torch.tensor([list(ids)], device=device), self.module.initial_state(1))
        return LstmPrefix(len(ids), state)

    @torch.inference_mode()
    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        *,
        max_tokens: int,
        max_logits: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """Logits of many sequences, shared prefixes read once; see `LanguageModel.stream_logits`."""
        known = prefix if isinstance(prefix, LstmPrefix) else LstmPrefix(0, self.module.initial_state(1))
        yield from stream(
            self.module, sequences, logit_counts, max_tokens=max_tokens, max_logits=max_logits, prefix=known
        )

    def runner(self, max_bytes: int = 0) -> LstmRunner:
        """One without a prefix cache: stopping to note the state costs a word-level LSTM more than is saved."""
        return LstmRunner(self)

    @property
    def sequence_bytes(self) -> int:
        """A hidden and a cell state for each layer; see `LanguageModel.sequence_bytes`."""
        return 2 * 4 * self.module.config.layers * self.module.config.hidden_size

    def in_bfloat16(self) -> tuple[RoundedModel, ...]:
        """Nothing: a small recurrence gains nothing from it."""
        return ()

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Raise `NoAttentionError`: a recurrent model has no attention weights."""
        raise NoAttentionError(self.info.name)

    @property
    def embedding(self) -> nn.Module:
        """See `OpenModel.embedding`."""
        return self.module.embedding

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """See `OpenModel.embed`."""
        return lookup(self.module.embedding, torch.tensor(list(ids), device=self.module.embedding.weight.device))

    def gradients(
        self, points: Tensor, tail: int, objective: LogitsObjective, prefix: Prefix | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `OpenModel.gradients`."""
        state = prefix.state if isinstance(prefix, LstmPrefix) else self.module.initial_state(1)
        # cuDNN's recurrence keeps nothing to go back by in evaluation mode.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            # Copies, as what was computed in inference mode may be no part of a gradient.
            before = [(h.clone().repeat(1, len(points), 1), c.clone().repeat(1, len(points), 1)) for h, c in state]
            points = points.detach().requires_grad_()
            hidden, _ = self.module.read(points, before)
            values = objective(self.module.head(hidden[:, -tail:]).float())
            (gradients,) = torch.autograd.grad(values.sum(), points)
        return values.detach(), gradients

    def value_zeroing(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """Raise `NoAttentionError`: a recurrent model has no value vectors."""
        raise NoAttentionError(self.info.name)


@dataclass
class _Recurrence:
    """A sequence of an `LstmRunner`."""

    state: State


class LstmRunner(SerialRunner[_Recurrence]):
    """Each sequence is its hidden state; chunks of equal shape go through the model together."""

    def __init__(self, model: LstmModel) -> None:
        super().__init__(model.logits)
        self._module = model.module

    def new(self) -> _Recurrence:
        """See `SerialRunner.new`."""
        return _Recurrence(self._module.initial_state(1))

    @torch.inference_mode()
    def advance(self, sequences: Sequence[_Recurrence], chunks: Sequence[Chunk]) -> list[Tensor]:
        """See `SerialRunner.advance`."""
        alike: dict[tuple[int, int], list[int]] = {}
        for i, chunk in enumerate(chunks):
            alike.setdefault((len(chunk.ids), chunk.logits), []).append(i)
        found: dict[int, Tensor] = {}
        for (length, wanted), indices in alike.items():
            ids = torch.tensor([list(chunks[i].ids) for i in indices])
            hidden, states = self._run(ids, [sequences[i].state for i in indices])
            logits: Tensor = self._module.head(hidden[:, length - wanted :].flatten(0, 1))
            found.update(zip(indices, logits.float().unflatten(0, (len(indices), wanted)), strict=True))
            for i, state in zip(indices, states, strict=True):
                sequences[i].state = state
        return [found[i] for i in range(len(chunks))]

    def _run(self, ids: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
        """Read `ids` [n, time] on from `states`. Returns [n, time, hidden], ready for the head, and the states then."""
        joined = [
            (torch.cat([hidden for hidden, _ in layer], 1), torch.cat([cell for _, cell in layer], 1))
            for layer in zip(*states, strict=True)
        ]
        hidden, after = self._module(ids.to(self._module.embedding.weight.device), joined)
        return hidden, [[(h[:, i : i + 1], c[:, i : i + 1]) for h, c in after] for i in range(len(ids))]


def _shared_prefix(sequences: Sequence[Sequence[int]], logit_counts: Sequence[int]) -> int:
    """How many first tokens all sequences agree on, leaving every position that is read out to its own sequence."""
    if len(sequences) == 1:
        return 0
    limit = min(len(ids) - tail for ids, tail in zip(sequences, logit_counts, strict=True))
    for position in range(limit):
        if any(ids[position] != sequences[0][position] for ids in sequences):
            return position
    return limit


def load_lstm(
    folder: str | Path, device: torch.device | str, name: str, digest: str, *, fast: bool = True
) -> LstmModel:
    """Load a folder that `save_lstm` wrote; the weights are computed with in float32 whatever they are stored in.

    Args:
        folder: the model's.
        device: where its weights are to lie.
        name: what `ModelInfo` calls it.
        digest: of its files.
        fast: use faster layers, whose weights can be neither changed nor saved.

    Raises:
        ModelLoadError: a file is missing or does not hold what it should.
    """
    module = load_module(folder).to(device).requires_grad_(False)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    if fast:
        use_fast_layers(module)
    config = module.config
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{folder} has no usable tokenizer: {error}") from error
    info = ModelInfo(
        name=name,
        digest=digest,
        architecture="lstm",
        parameters=parameters,
        layers=config.layers,
        heads=0,
        hidden_size=config.hidden_size,
        vocabulary_size=config.vocabulary_size,
        context_length=config.context_length,
        device=str(device),
        dtype="float32",
    )
    return LstmModel(module, Tokenizer(tokenizer, config.context_length), info)
