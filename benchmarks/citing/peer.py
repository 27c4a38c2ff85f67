"""`context-cite` 0.0.4 on sources, a question and an answer of our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import nltk
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ml.explain.estimator import BoolArray, FloatArray

with mock.patch.object(nltk, "download"):  # a model of sentences, which are given here
    from context_cite import ContextCiter
    from context_cite.context_partitioner import BaseContextPartitioner


class Sentences(BaseContextPartitioner):  # type: ignore[misc]
    """Given sentences with a space between them."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__(" ".join(sentences))
        self._sentences = list(sentences)

    @property
    def num_sources(self) -> int:
        """How many there are."""
        return len(self._sentences)

    def split_context(self) -> None:
        """They are split."""

    def get_source(self, index: int) -> str:
        """One of them."""
        return self._sentences[index]

    def get_context(self, mask: BoolArray | None = None) -> str:
        """Those that a mask keeps."""
        kept = self._sentences if mask is None else [s for s, keep in zip(self._sentences, mask, strict=True) if keep]
        return " ".join(kept)


class Peer:
    """A model as `context-cite` takes it, with a chat template that writes the message as it is."""

    def __init__(self, folder: Path) -> None:
        self.module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        start = self.tokenizer("a")["input_ids"][:1] == [self.tokenizer.bos_token_id]
        self.tokenizer.chat_template = ("{{ bos_token }}" if start else "") + "{{ messages[0]['content'] }}"

    def citer(self, sentences: Sequence[str], question: str, answer: str, **options: Any) -> ContextCiter:
        """What attributes a given answer."""
        partitioner = Sentences(sentences)
        citer = ContextCiter(
            self.module, self.tokenizer, partitioner.context, question, partitioner=partitioner, **options
        )
        _, prompt = citer._get_prompt_ids(return_prompt=True)
        citer._cache["output"] = prompt + answer  # what it would have generated
        return citer


def attributions(citer: ContextCiter, parts: Sequence[str]) -> FloatArray:
    """The scores of each part of the answer, [parts, sources]."""
    scores, start, response = [], 0, citer.response
    for part in parts:
        text = part.strip()
        start = response.index(text, start)
        scores.append(citer.get_attributions(start, start + len(text), verbose=False))
        start += len(text)
    return np.array(scores, dtype=np.float64)
