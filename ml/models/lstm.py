"""The word-level LSTM language model: its module, its folder on disk, and its place behind `LanguageModel`.

The recurrent model of Zaremba et al. 2014 ("Recurrent neural network regularization"), with what later work found to
help as options: tied input and output embeddings (Press & Wolf 2017), dropout that keeps one mask over time (Gal &
Ghahramani 2016), and dropout of whole embedding rows and of recurrent weights (Merity et al. 2018, AWD-LSTM).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ml.errors import ModelLoadError, NoAttentionError
from ml.kernels.onednn_linear import use_fast_layers
from ml.models.base import AttentionSink, Batch, Chunk, ModelInfo, Prefix
from ml.models.fallback.serial_runner import SerialRunner
from ml.models.internals.objective import LogitsObjective
from ml.models.internals.open_model import OpenModel
from ml.models.loading.files import replacing
from ml.models.lstm_sharing import LstmPrefix, stream
from ml.models.protocol import RoundedModel
from ml.runtime.embedding import lookup
from ml.tokens import Tokenizer

MODEL_TYPE = "gloss_lstm"

State = list[tuple[Tensor, Tensor]]
"""The recurrent state: for each layer its hidden and cell state, each [1, batch, hidden]."""


@dataclass(frozen=True)
class LstmConfig:
    """Shape and regularisation of a `WordLSTM`. The dropouts are probabilities and act in training only."""

    vocabulary_size: int
    embedding_size: int = 200
    hidden_size: int = 200
    layers: int = 2
    tied: bool = True
    """Output embedding = input embedding; needs embedding_size == hidden_size."""
    dropout: float = 0.5
    """Between the layers, before the first and after the last."""
    variational: bool = False
    """One dropout mask for all time steps of a window, in place of a fresh one for each."""
    embedding_dropout: float = 0.0
    """Whole words, wherever they occur in the batch."""
    weight_dropout: float = 0.0
    """Single recurrent weights, for all time steps of a window."""
    context_length: int = 2048
    """The longest prompt served. The recurrence itself has no limit."""

    def __post_init__(self) -> None:
        if self.tied and self.embedding_size != self.hidden_size:
            raise ValueError(
                f"tied weights need an embedding ({self.embedding_size}) as wide as the hidden state "
                f"({self.hidden_size})"
            )


class WordLSTM(nn.Module):
    """Embedding, LSTM layers and a linear head over the vocabulary.

    `forward` stops before the head, so that the caller chooses which positions pay for it: with 33,278 words it costs
    ten times as much as the recurrence.
    """

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        widths = [config.embedding_size] + [config.hidden_size] * config.layers
        self.layers = nn.ModuleList(nn.LSTM(width, config.hidden_size, batch_first=True) for width in widths[:-1])
        self.head = nn.Linear(config.hidden_size, config.vocabulary_size)
        if config.tied:
            self.head.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    def initial_state(self, batch: int) -> State:
        """The state before any word: zeros."""
        zeros = self.embedding.weight.new_zeros(1, batch, self.config.hidden_size)
        return [(zeros, zeros) for _ in self.layers]

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read `ids` [batch, time] on from `state`.

        Returns:
            The last layer's output [batch, time, hidden], ready for `head`, and the state after the last word.
        """
        return self.read(self._dropped(self._embed(ids)), state)

    def read(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As `forward`, from embeddings [batch, time, size]."""
        after = []
        for layer, before in zip(self.layers, state, strict=True):
            x, last = self._recur(cast(nn.LSTM, layer), x, before)
            x = self._dropped(x)
            after.append(last)
        return x, after

    def _embed(self, ids: Tensor) -> Tensor:
        if not self.training:
            return lookup(self.embedding, ids)
        x: Tensor = self.embedding(ids)
        if self.config.embedding_dropout:
            # Scaling the rows that were looked up, not the matrix, spares a copy of the whole vocabulary.
            kept = F.dropout(x.new_ones(self.config.vocabulary_size, 1), self.config.embedding_dropout)
            x = x * F.embedding(ids, kept)
        return x

    def _recur(self, layer: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not (self.training and self.config.weight_dropout):
            y, after = layer(x, state)
            return y, after
        inward, recurrent, *biases = cast(list[Tensor], layer.all_weights[0])
        weights = [inward, F.dropout(recurrent, self.config.weight_dropout), *biases]
        y, h, c = torch.lstm(x, list(state), weights, True, 1, 0.0, True, False, True)
        return y, (h, c)

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.config.dropout):
            return x
        if not self.config.variational:
            return F.dropout(x, self.config.dropout)
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.config.dropout)


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


def save_lstm(
    module: WordLSTM, tokenizer: PreTrainedTokenizerFast, folder: str | Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write the model's folder: config.json, model.safetensors (weights in `dtype`) and the tokenizer's files.

    A model that lies there already is replaced whole or not at all; see `ml.models.loading.files.replacing`.
    """
    with replacing(Path(folder)) as scratch:
        config = {"model_type": MODEL_TYPE, "architectures": ["WordLSTM"], **asdict(module.config)}
        (scratch / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_weights(module, scratch, dtype)
        tokenizer.save_pretrained(scratch)


def save_weights(module: WordLSTM, folder: Path, dtype: torch.dtype) -> None:
    """Write the folder's model.safetensors. `module` is a plain one: without fast layers, which cannot be saved."""
    weights = {name: tensor.detach().to(dtype).contiguous() for name, tensor in module.state_dict().items()}
    if module.config.tied:
        del weights["head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_module(folder: str | Path) -> WordLSTM:
    """The module of a folder that `save_lstm` wrote, in float32 on the CPU and in evaluation mode.

    Raises:
        ModelLoadError: a file is missing or does not hold what it should.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "config.json").read_text())
        config = LstmConfig(**{part.name: stored[part.name] for part in fields(LstmConfig) if part.name in stored})
        weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        if config.tied:
            weights["head.weight"] = weights["embedding.weight"]
        module = WordLSTM(config)
        module.load_state_dict(weights)
    except FileNotFoundError as error:
        raise ModelLoadError(f"{folder} lacks {Path(str(error.filename or 'model.safetensors')).name}") from error
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{folder} does not hold a word-level LSTM: {error}") from error
    return module.eval()


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
