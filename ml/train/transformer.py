"""A small Llama-style transformer (RoPE, RMSNorm, SwiGLU, tied embeddings) over byte-level BPE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ml.models.loading.files import replacing
from ml.train.bpe import train_tokenizer
from ml.train.corpus import Corpus, count_words, fingerprint
from ml.train.errors import DataError, OptionError
from ml.train.loss import cross_entropy
from ml.train.muon import Muon
from ml.train.natural import natural, natural_text
from ml.train.options import LARGEST, check, option
from ml.train.perplexity import Perplexity, transformer_nats
from ml.train.precision import Precision


@dataclass(frozen=True)
class TransformerSettings:
    """Shape and training of the transformer.

    Raises:
        OptionError: a value is not allowed.
    """

    vocabulary_size: int = option(
        "tokens of the byte-level BPE, learnt from the training text", 8192, minimum=258, maximum=LARGEST, fixed=True
    )
    hidden_size: int = option(
        "numbers of a token's state between blocks; a multiple of twice --heads",
        256,
        minimum=2,
        maximum=LARGEST,
        fixed=True,
    )
    layers: int = option("blocks of attention and feed-forward network", 4, minimum=1, maximum=1000, fixed=True)
    heads: int = option("attention heads of each block", 4, minimum=1, maximum=LARGEST, fixed=True)
    feed_forward: int = option("numbers inside each feed-forward network", 704, minimum=1, maximum=LARGEST, fixed=True)
    context_length: int = option(
        "tokens of a training window, and the most that the model will read",
        512,
        minimum=2,
        maximum=LARGEST,
        fixed=True,
    )
    dropout: float = option(
        "probability that a number of the embeddings or of what a block adds is dropped in training",
        0.1,
        minimum=0,
        below=1,
    )
    batch: int = option("windows of --context-length tokens in a step", 8, minimum=1, maximum=LARGEST, fixed=True)
    matrix_rate: float = option(
        "learning rate of Muon, for the blocks' matrices, in units of their spectral norm, which --shape then lowers",
        0.02,
        minimum=0,
    )
    embedding_rate: float = option(
        "learning rate of AdamW, for embeddings and norms, which --shape then lowers", 0.003, minimum=0
    )
    weight_decay: float = option("share of each weight that a step takes away, times the learning rate", 0.1, minimum=0)
    precision: Precision = option(
        "of matrix products and attention; auto is bfloat16 where the processor has instructions for it", Precision.AUTO
    )

    def __post_init__(self) -> None:
        check(self)
        if self.hidden_size % (2 * self.heads):
            raise OptionError(
                f"--hidden-size {self.hidden_size} is no multiple of twice --heads {self.heads}: each head takes an"
                " equal, even share of it"
            )


class TransformerTask:
    """Trains on windows of the text, each after the start token; where they begin changes with the epoch.

    Raises:
        DataError: the text is too short for one step.
    """

    name = "transformer"

    def __init__(self, corpus: Corpus, settings: TransformerSettings, seed: int) -> None:
        self.settings = settings
        self.fingerprint = fingerprint(corpus)
        self.seed = seed
        self._products = settings.precision.dtype
        self.tokenizer = train_tokenizer(
            [natural(line) + "\n" for line in corpus.train], settings.vocabulary_size, settings.context_length
        )
        self.start = int(self.tokenizer.bos_token_id)
        self._ids = encode(self.tokenizer, corpus.train)
        # One window fewer than fit, so that they can begin anywhere.
        self._windows = len(self._ids) // settings.context_length - 1
        self.steps_per_epoch = self._windows // settings.batch
        if self.steps_per_epoch < 1:
            raise DataError(
                f"the training text has {len(self._ids):,} tokens, and one step takes"
                f" {(settings.batch + 1) * settings.context_length:,}: give more text, or a smaller --batch or"
                " --context-length"
            )
        self._valid_ids = encode(self.tokenizer, corpus.valid)
        self._valid_words = count_words(corpus.valid)
        self.module = _build(settings, self.tokenizer)
        self.optimizers = _optimizers(self.module, settings)

    @property
    def rates(self) -> dict[str, float]:
        """See `Task.rates`."""
        return {"matrix_rate": self.settings.matrix_rate, "embedding_rate": self.settings.embedding_rate}

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets, each [batch, context_length]; an input is its target moved right by the start token."""
        length, batch = self.settings.context_length, self.settings.batch
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        offset = int(torch.randint(length, (), generator=generator))
        windows = self._ids[offset : offset + self._windows * length].view(-1, length)
        order = torch.randperm(self._windows, generator=generator)
        for step in range(skip, self.steps_per_epoch):
            targets = windows[order[step * batch : (step + 1) * batch]]
            yield F.pad(targets[:, :-1], (1, 0), value=self.start), targets

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token."""
        with self._autocast():
            hidden = self.module.model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        return cross_entropy(hidden, self.module.lm_head.weight, None, targets.flatten(), products=self._products)

    def validate(self) -> Perplexity:
        """Over windows that do not overlap: a little worse than `ml.evaluate` finds, at half its cost."""
        self.module.eval()
        length = self.settings.context_length
        with self._autocast():
            parts = list(transformer_nats(self.module, self._valid_ids, self.start, size=length))
        self.module.train()
        return Perplexity(sum(nats for nats, _ in parts), len(self._valid_ids), self._valid_words)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._products is torch.bfloat16)

    def export(self, folder: Path) -> None:
        """A Hugging Face folder with weights in half precision."""
        half = LlamaForCausalLM(self.module.config).half()
        half.load_state_dict(self.module.state_dict())
        with replacing(folder) as scratch:
            half.save_pretrained(scratch)
            self.tokenizer.save_pretrained(scratch)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: every window stands alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def encode(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> Tensor:
    """A split's token ids as one stream, without special tokens of the tokenizer's own."""
    return torch.tensor(tokenizer.backend_tokenizer.encode(natural_text(lines), add_special_tokens=False).ids)


def _build(settings: TransformerSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=settings.feed_forward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=settings.context_length,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )

    def dropped(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return F.dropout(output[0], settings.dropout, module.training), *output[1:]
        return F.dropout(output, settings.dropout, module.training)

    # Llama has no dropout of its own; on two million words a small one needs it.
    module.model.embed_tokens.register_forward_hook(dropped)
    for layer in module.model.layers:
        layer.self_attn.register_forward_hook(dropped)
        layer.mlp.register_forward_hook(dropped)
        # A block that adds nothing at first: training starts from the embeddings alone and stays even.
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    module.train()
    return module


def _optimizers(module: LlamaForCausalLM, settings: TransformerSettings) -> list[Optimizer]:
    matrices = [parameter for parameter in module.model.layers.parameters() if parameter.ndim == 2]
    norms = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    decayed = {"params": [module.model.embed_tokens.weight], "weight_decay": settings.weight_decay}
    return [
        Muon(matrices, lr=settings.matrix_rate, weight_decay=settings.weight_decay, products=settings.precision.dtype),
        AdamW(
            [decayed, {"params": norms, "weight_decay": 0.0}],
            lr=settings.embedding_rate,
            betas=(0.9, 0.99),
            eps=1e-10,
            fused=True,
        ),
    ]
