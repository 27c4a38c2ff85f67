"""Removal: from a coalition of features to the tokens that the model reads."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ml import spec
from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain.estimator import BoolArray, IntArray, empty_and_full
from ml.explain.features import Feature
from ml.models.protocol import MEAN
from ml.result import ResolvedRemoval
from ml.spec import RemovalKind
from ml.tokens import Tokenizer

BY_SIMILAR_WORDS = (RemovalKind.SIMILAR, RemovalKind.SIMILAR_SLOPES)
SIMILAR_WORDS = 8
"""How many similar words replace each word, one in each removal."""

Ids = IntArray
"""One number per token, mostly token ids (`MEAN` may be among them): int64 [tokens]."""


@dataclass(frozen=True)
class Perturbation:
    """Prompts with features left out.

    Attributes:
        ids: the whole prompt, int64 [tokens].
        owner: the feature that each token belongs to, -1 for none, int64 [tokens].
        replacements: the tokens that take each feature's place, possibly none. They stand where its first token stood.
        nothing: what the model reads when no token is left, as no model can read nothing.
        resolved: the removal, for the result.
        others: other removals of the same features. A coalition's value is the mean over all of them, so that side
            effects of a single removal, such as broken grammar, weigh less.
        weight: how much this removal counts in that mean.
        factors: for each feature what its change is multiplied by; empty if values are means. See `Prompts.slopes`.
    """

    ids: Ids
    owner: Ids
    replacements: tuple[tuple[int, ...], ...]
    nothing: tuple[int, ...]
    resolved: ResolvedRemoval
    others: tuple[Perturbation, ...] = ()
    weight: float = 1.0
    factors: tuple[float, ...] = ()

    @property
    def features(self) -> int:
        """How many features there are."""
        return len(self.replacements)

    @property
    def empty_and_full(self) -> BoolArray:
        """The empty and the full coalition, bool [2, features]."""
        return empty_and_full(self.features)

    @property
    def identity(self) -> Hashable:
        """See `ml.explain.values.prompts.Prompts.identity`."""
        others = tuple(other.identity for other in self.others)  # which weights follow from
        own = (tuple(self.ids.tolist()), tuple(self.owner.tolist()), self.replacements, self.nothing, others)
        return (*own, "slopes") if self.factors else own  # the factors follow from the words

    def __call__(self, coalition: BoolArray) -> Ids:
        """The prompt in which only the features of `coalition` (bool [features]) are left, int64, never empty."""
        kept = np.append(coalition, True)[self.owner]  # the last entry is for tokens without an owner (-1)
        if self._replaced is not None:
            return np.where(kept, self.ids, self._replaced)
        left: list[int] = []
        replaced = set()
        for token_id, keep, owner in zip(self.ids.tolist(), kept.tolist(), self.owner.tolist(), strict=True):
            if keep:
                left.append(token_id)
            elif owner not in replaced:
                replaced.add(owner)
                left.extend(self.replacements[owner])
        return np.array(left or self.nothing, dtype=np.int64)

    @property
    def removals(self) -> int:
        """See `ml.explain.values.prompts.Prompts.removals`."""
        return 1 + len(self.others)

    @property
    def weights(self) -> list[float]:
        """See `ml.explain.values.prompts.Prompts.weights`."""
        return [self.weight, *(other.weight for other in self.others)]

    def variants(self, coalition: BoolArray) -> list[Ids]:
        """See `ml.explain.values.prompts.Prompts.variants`."""
        return [self(coalition), *(other(coalition) for other in self.others)]

    def slopes(self, coalition: BoolArray) -> list[float] | None:
        """See `ml.explain.values.prompts.Prompts.slopes`.

        Distances, of which factors are the inverse, are averaged where several features are missing.
        """
        if not self.factors:
            return None
        missing = np.flatnonzero(~coalition)
        inverse = [1 / np.array(each.factors) for each in (self, *self.others)]
        return [float(1 / each[missing].mean()) if len(missing) else 1.0 for each in inverse]

    @property
    def keeps_positions(self) -> bool:
        """Whether every token keeps its position in every perturbed prompt."""
        return self._replaced is not None and not self.others

    @property
    def unchanged(self) -> list[int]:
        """The features that removal does not change, as their tokens equal the replacement."""
        own: list[list[int]] = [[] for _ in self.replacements]
        for token_id, owner in zip(self.ids.tolist(), self.owner.tolist(), strict=True):
            if owner >= 0:
                own[owner].append(token_id)
        same = {index for index, new in enumerate(self.replacements) if tuple(own[index]) == new}
        return sorted(same.intersection(*(other.unchanged for other in self.others)))

    @property
    def shared_prefix(self) -> list[int]:
        """Tokens that every perturbed prompt begins with, and is longer than."""
        changed = np.flatnonzero(self.owner >= 0)
        fixed = int(changed[0]) if len(changed) else len(self.ids)
        kept: list[int] = self.ids[: max(0, fixed - 1)].tolist()  # one less, as nothing may follow them
        return kept

    @property
    def longest(self) -> int:
        """Tokens of the longest perturbed prompt, at most."""
        gains = [max(0, len(new) - old) for new, old in zip(self.replacements, self._sizes, strict=True)]
        return max(len(self.ids) + sum(gains), len(self.nothing), *(other.longest for other in self.others))

    @cached_property
    def _sizes(self) -> list[int]:
        sizes: list[int] = np.bincount(self.owner[self.owner >= 0], minlength=self.features).tolist()
        return sizes

    @cached_property
    def _replaced(self) -> Ids | None:
        """The prompt with all features replaced, where that keeps positions: a coalition is then a single `where`."""
        if any(len(new) != old for new, old in zip(self.replacements, self._sizes, strict=True)):
            return None
        replaced = self.ids.copy()
        for feature, new in enumerate(self.replacements):
            replaced[self.owner == feature] = new
        return replaced


def perturbation(
    tokenizer: Tokenizer, encoding: Encoding, features: Sequence[Feature], removal: spec.Removal
) -> Perturbation:
    """Decide how features are removed.

    The default kind is the model's mask or unknown token, or deletion for a model with neither. Where deletion leaves
    no token, the model reads its end-of-text token, which precedes a text in training; a model without one reads the
    prompt's first token. Similar words depend on the model: until `ml.explain.similar.with_similar_words` inserts them,
    features are deleted.

    Raises:
        InputError: the model has no mask token, or the replacement text has no tokens.
    """
    owner = np.full(len(encoding.ids), -1, dtype=np.int64)
    for index, feature in enumerate(features):
        owner[list(feature.positions)] = index

    default = RemovalKind.DELETE if tokenizer.mask_token is None else RemovalKind.MASK_TOKEN
    kind = removal.kind or default
    deleted: tuple[tuple[int, ...], ...] = ((),) * len(features)
    replacement, replaced = "", [deleted]
    match kind:
        case RemovalKind.MASK_TOKEN:
            if tokenizer.mask_token is None:
                raise InputError(
                    "removal.kind", "this model has neither a mask nor an unknown token; choose deletion or text"
                )
            mask_id, replacement = tokenizer.mask_token
            replaced = [tuple((mask_id,) * len(feature.positions) for feature in features)]
        case RemovalKind.TEXT | RemovalKind.TEXT_AND_DELETE:
            replacement = removal.text or spec.NEUTRAL
            tokenizer.check_length("removal.text", replacement)
            written = tuple(_written(tokenizer, encoding, feature, replacement) for feature in features)
            replaced = [written] if kind is RemovalKind.TEXT else [written, deleted]
        case RemovalKind.DELETE:
            pass
        case RemovalKind.MEAN_EMBEDDING:
            replaced = [tuple((MEAN,) * len(feature.positions) for feature in features)]
        case RemovalKind.SIMILAR | RemovalKind.SIMILAR_SLOPES:  # which words these are is the model's to say
            replaced = [deleted] * SIMILAR_WORDS
    first, *others = (
        Perturbation(
            ids=np.array(encoding.ids, dtype=np.int64),
            owner=owner,
            replacements=replacements,
            nothing=(min(tokenizer.special.ends, default=encoding.ids[0]),),
            resolved=ResolvedRemoval(kind, replacement),
        )
        for replacements in replaced
    )
    return replace(first, others=tuple(others))


def _written(tokenizer: Tokenizer, encoding: Encoding, feature: Feature, text: str) -> tuple[int, ...]:
    """The tokens of `text` in a feature's place."""
    ids = tokenizer.replacement(encoding, feature.positions[0], text)
    if ids is None:
        message = f"this model has no tokens for {text!r} in the place of {feature.text!r}; choose another text"
        raise InputError("removal.text", message)
    if not ids:
        raise InputError("removal.text", f"{text!r} has no tokens in this model; choose another text, or deletion")
    return ids
