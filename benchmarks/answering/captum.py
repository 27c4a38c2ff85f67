"""captum's ways to rank the words of a prompt, on transformers' own model.

All take the model's mask in the place of what they remove, as Gloss does by default. captum asks for one coalition
again and again, so what the model said of a sequence is kept while a way works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import factorial

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients, ShapleyValues, ShapleyValueSampling
from torch import Tensor
from transformers import PreTrainedModel

from ml.explain import Problem
from ml.models.internals.objective import of_logits

Values = npt.NDArray[np.float64]

_STEPS = 50
_MAX_ORDERS = factorial(6)
"""Orders of features that `ShapleyValues` walks through; beyond, `ShapleyValueSampling` walks through as many."""


class Captum:
    """captum, about one question: `problem`, whose target is a contrast within the prompt's next token or two."""

    def __init__(self, module: PreTrainedModel, problem: Problem, mask_id: int) -> None:
        """Explain `module`."""
        if problem.target.tokens is None:
            raise ValueError("captum explains a target that is given")
        self._module = module
        self._value, self._positions = of_logits(problem.target.tokens.objective)
        self._ids = torch.tensor([[*problem.encoding.ids]])
        self._appended = torch.tensor([[*problem.target.tokens.appended]], dtype=torch.long)
        self._owner = torch.tensor(problem.perturbation.owner)
        self._features = len(problem.features)
        self._known: dict[tuple[int, ...], float] = {}
        self._baseline = torch.where(self._owner >= 0, mask_id, self._ids)

    def ways(self) -> Iterator[tuple[str, Callable[[], Values]]]:
        """Each with its name; it gives what each word contributes, float64 [features]."""
        yield "captum FeatureAblation", lambda: self._of_tokens(FeatureAblation(self._of_ids))
        yield "captum ShapleyValues", self._shapley
        yield "captum IntegratedGradients", self._integrated
        yield "captum InputXGradient", self._input_times_gradient

    def _shapley(self) -> Values:
        self._known.clear()
        if factorial(self._features) <= _MAX_ORDERS:
            return self._of_tokens(ShapleyValues(self._of_ids))
        return self._of_tokens(ShapleyValueSampling(self._of_ids), n_samples=_MAX_ORDERS)

    def _integrated(self) -> Values:
        embed = self._module.get_input_embeddings()
        whole, removed = (embed(ids).detach() for ids in (self._ids, self._baseline))
        found = IntegratedGradients(self._of_embeddings).attribute(
            whole, removed, n_steps=_STEPS, method="gausslegendre", internal_batch_size=_STEPS
        )
        return self._by_feature(found.sum(-1)[0])

    def _input_times_gradient(self) -> Values:
        whole = self._module.get_input_embeddings()(self._ids).detach().requires_grad_()
        return self._by_feature(InputXGradient(self._of_embeddings).attribute(whole).sum(-1)[0])

    def _of_tokens(self, way: FeatureAblation, **parameters: int) -> Values:
        """What a way finds that replaces the tokens of each word together."""
        self._known.clear()
        mask = (self._owner + 1).unsqueeze(0)  # what belongs to no word is a group of its own, whose baseline it is
        found = way.attribute(self._ids, self._baseline, feature_mask=mask, **parameters)[0]
        first = [int((self._owner == feature).nonzero()[0]) for feature in range(self._features)]
        return np.array(found[first].tolist())

    def _of_ids(self, sequences: Tensor) -> Tensor:
        """Values of some prompts, int64 [n, tokens] to float64 [n]."""
        keys = [tuple(row) for row in sequences.tolist()]
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        if new:
            read = torch.cat([torch.tensor(new), self._appended.expand(len(new), -1)], dim=1)
            with torch.inference_mode():
                logits = self._module(input_ids=read, use_cache=False, logits_to_keep=self._positions).logits
                self._known.update(zip(new, self._value(logits.float()).tolist(), strict=True))
        return torch.tensor([self._known[key] for key in keys], dtype=torch.float64)

    def _of_embeddings(self, embedded: Tensor) -> Tensor:
        """Values of some prompts, float32 [n, tokens, hidden] to float64 [n]."""
        behind = self._module.get_input_embeddings()(self._appended).expand(len(embedded), -1, -1)
        read = torch.cat([embedded, behind], dim=1)
        logits = self._module(inputs_embeds=read, use_cache=False, logits_to_keep=self._positions).logits
        return self._value(logits.float())

    def _by_feature(self, tokens: Tensor) -> Values:
        mine = self._owner >= 0
        sums = np.bincount(self._owner[mine].numpy(), tokens.detach().double()[mine].numpy(), self._features)
        return sums.astype(np.float64)
