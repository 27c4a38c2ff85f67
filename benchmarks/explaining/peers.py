"""The others' ways to an explanation, on transformers' own model."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shap
import torch
from captum.attr import FeatureAblation, IntegratedGradients, LLMAttribution, TextTemplateInput
from lime.lime_text import LimeTextExplainer
from transformers import PreTrainedModel

from benchmarks.explaining.figures import Values
from ml.spec import Prompt
from ml.tokens import Tokenizer

BATCHES = (4, 8, 16, 32)
CAPTUM_TOKENS, MAX_CAPTUM_TOKENS = 640, 3200
"""Of a batch of an integral's points, which captum computes all at once by default, whatever the memory."""


class Peers:
    """Everybody else, about one model. Where a way replaces words or tokens, it takes the model's mask in their place.

    Attributes:
        mask_id, mask_text: that mask.
    """

    def __init__(self, module: PreTrainedModel, tokenizer: Tokenizer, peers_tokenizer: Any) -> None:
        """Explain `module`. `tokenizer` is Gloss's, `peers_tokenizer` the same as transformers has it."""
        if tokenizer.mask_token is None:
            raise SystemExit("the peers replace removed tokens by the mask or unknown token, and this model has none")
        self.mask_id, self.mask_text = tokenizer.mask_token
        self._module = module
        self._tokenizer = tokenizer
        self._peers_tokenizer = peers_tokenizer

    @torch.inference_mode()
    def plain(self, sequences: Sequence[Sequence[int]], target: int, batch: int) -> Values:
        """Log-probability of `target` after each sequence, by batches of similar length, padded on the left."""
        values = np.empty(len(sequences))
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = len(sequences[chosen[-1]])
            ids = torch.full((len(chosen), longest), self.mask_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, longest - len(sequences[i]) :] = torch.tensor(sequences[i])
                mask[row, longest - len(sequences[i]) :] = 1
            extra = {} if bool(mask.all()) else {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_(0)}
            out = self._module(input_ids=ids, use_cache=False, logits_to_keep=1, **extra)
            values[chosen] = torch.log_softmax(out.logits[:, -1].double(), dim=-1)[:, target].numpy()
        return values

    def best_batch(self, sequences: Sequence[Sequence[int]], target: int) -> int:
        """The plain loop's best batch size, found by one trial of each on as many prompts as the largest holds."""
        seconds = {}
        for batch in BATCHES:
            begin = time.perf_counter()
            self.plain(sequences[: max(BATCHES)], target, batch)
            seconds[batch] = time.perf_counter() - begin
        return min(seconds, key=lambda batch: seconds[batch])

    def captum_occlusion(self, ids: Sequence[int], last: int, target: int) -> Callable[[], Values]:
        """`LLMAttribution` with `FeatureAblation` of the `last` tokens."""
        attribution = LLMAttribution(FeatureAblation(self._module), self._peers_tokenizer)
        # The features are the last tokens only. With a cache captum counts a GPT-2's positions twice.
        fixed = self._tokenizer.decode(ids[:-last]).replace("{", "(").replace("}", ")")
        values = [self._tokenizer.token_text(one) for one in ids[-last:]]
        prompt = TextTemplateInput(fixed + "{}" * last, values, baselines=[self.mask_text] * last)
        continuation = self._tokenizer.token_text(target)
        return lambda: _numbers(attribution.attribute(prompt, target=continuation, use_cached_outputs=False).seq_attr)

    def captum_integrated(
        self, ids: Sequence[int], last: int, target: int, steps: int, batch: int
    ) -> Callable[[], Values]:
        """`IntegratedGradients` of the last tokens, from the mean embedding to their own, by Gauss's and Legendre's
        rule."""
        embedding: Any = self._module.get_input_embeddings()
        whole = embedding(torch.tensor([ids])).detach()
        mean = whole.clone()
        mean[:, -last:] = embedding.weight.detach().mean(0)

        def value(points: torch.Tensor) -> torch.Tensor:
            logits = self._module(inputs_embeds=points, use_cache=False, logits_to_keep=1).logits[:, -1]
            chosen: torch.Tensor = logits.log_softmax(-1)[:, target]
            return chosen

        def attribute() -> Values:
            way = IntegratedGradients(value)
            found = way.attribute(whole, mean, n_steps=steps, method="gausslegendre", internal_batch_size=batch)
            return _numbers(found.sum(-1)[0])

        return attribute

    def inseq_occlusion(self, ids: Sequence[int], target: int) -> Callable[[], Values] | None:
        """inseq's, which gives absolute values; None where it is not installed: too much hangs on it for a test's
        dependency."""
        try:
            inseq = importlib.import_module("inseq")
        except ImportError:
            return None
        text, continuation = self._tokenizer.decode(ids), self._tokenizer.token_text(target)
        peer = inseq.load_model(self._module, "occlusion", tokenizer=self._peers_tokenizer)
        return lambda: _numbers(peer.attribute(text, text + continuation, show_progress=False)[0].target_attributions)

    def lime(self, text: str, target: int, samples: int) -> Callable[[], Values]:
        """`lime`, with a batched predict."""
        words = len(text.split())

        def way() -> Values:
            explainer = LimeTextExplainer(
                bow=False, split_expression=str.split, mask_string=self.mask_text, random_state=0
            )
            explained = explainer.explain_instance(
                text, self._predict(target), labels=(0,), num_features=words, num_samples=samples
            )
            weights = dict(explained.as_map()[0])
            return np.array([weights[i] for i in range(words)])

        return way

    def shap(self, text: str, target: int, samples: int) -> Callable[[], Values]:
        """`shap.KernelExplainer`, with a batched predict."""
        words, predict = text.split(), self._predict(target)

        def game(masks: Values) -> Values:
            texts = [" ".join(w if m else self.mask_text for w, m in zip(words, row, strict=True)) for row in masks]
            return predict(texts)[:, 0]

        def way() -> Values:
            explainer = shap.KernelExplainer(game, np.zeros((1, len(words))), seed=0)
            values: Values = explainer.shap_values(np.ones(len(words)), nsamples=samples, silent=True, l1_reg=False)
            return values

        return way

    def captum_samples(self, method: Any, text: str, target: int, samples: int) -> Callable[[], Values]:
        """`LLMAttribution` with one of captum's sampling methods, of the text's words."""
        words = text.split()
        blanks = [self.mask_text, *[f" {self.mask_text}"] * (len(words) - 1)]
        values = [words[0], *(f" {word}" for word in words[1:])]
        prompt = TextTemplateInput("{}" * len(words), values, baselines=blanks)
        attribution = LLMAttribution(method(self._module), self._peers_tokenizer)
        continuation = self._tokenizer.token_text(target)
        return lambda: _numbers(
            attribution.attribute(prompt, target=continuation, n_samples=samples, use_cached_outputs=False).seq_attr
        )

    def _predict(self, target: int) -> Callable[[Sequence[str]], Values]:
        """What `lime` and `shap` call: log-probabilities of texts, batched as well as the plain loop does it."""

        def predict(texts: Sequence[str]) -> Values:
            sequences = [list(self._tokenizer.encode(Prompt(text=variant)).ids) for variant in texts]
            log_p = self.plain(sequences, target, max(BATCHES))
            return np.stack([log_p, -log_p], axis=1)

        return predict


def _numbers(tensor: Any) -> Values:
    values: Values = tensor.detach().double().numpy()
    return values
