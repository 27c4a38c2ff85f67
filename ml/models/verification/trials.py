"""The ways to ask a model, each tried out on a few prompts; see `ml.models.verification.verify`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.models.base import Chunk, Runner
from ml.models.fallback.cache_runner import CacheRunner
from ml.models.fallback.cached_batches import CachedRun
from ml.models.fallback.padded_batches import batch_logits
from ml.models.internals.gradients import DenseForward
from ml.runtime.embedding import lookup
from ml.runtime.implementation import registered, takes_function
from ml.runtime.inline_attention import hands_over
from ml.runtime.last_layer import WORTH_TRIMMING, trim_last_layer
from ml.runtime.model_runner import ModelRunner
from ml.runtime.spans import spans_of
from ml.runtime.variants import Variants

_log = logging.getLogger(__name__)

READ_OUT = 16
"""Last positions at which a prompt's logits are compared, at most."""
MIN_BEYOND = 12
"""Tokens that a trial's longest prompt goes beyond a bound, at least."""
_LONGEST_REASON = 100
"""Characters of what a model says that fails."""
_PREFIX_BYTES = 1 << 20
"""Of a prefix cache that is tried out, at least."""


@dataclass(frozen=True)
class Stage:
    """Trials whose longest prompt has `length` tokens, which show how a way does up to `limit`.

    Attributes:
        edge: the bound that `length` is beyond of; 0 below the first one.
        exact: whether a prompt of exactly `limit` tokens is tried, too.
    """

    length: int
    limit: float
    edge: int
    exact: bool


class Trials:
    """Each trial gives how far a way is from the plain forward, as a share of the largest logit.

    Attributes:
        memory: bytes of a sequence's cache, and of each of its tokens besides, once `decoded` has run.
        trims: whether the last layer of `module` stays trimmed, once `ragged` has run.
    """

    def __init__(self, module: PreTrainedModel, tolerance: float, *, spread: bool) -> None:
        """Try out `module`. `tolerance`: up to which difference its last layer stays trimmed."""
        self._module, self._tolerance, self._spread = module, tolerance, spread
        self._span_of = spans_of(module)
        self._vocabulary: int = module.config.get_text_config().vocab_size
        padding = getattr(module.config.get_text_config(), "pad_token_id", None)
        self._padding = padding if isinstance(padding, int) and 0 <= padding < self._vocabulary else None
        self._references: dict[tuple[int, ...], Tensor] = {}
        self.memory = (0, 0)
        self.trims = False

    def reference(self, ids: Sequence[int], tail: int = 1) -> Tensor:
        """What the plain forward says after the last `tail` tokens, float32 [tail, vocabulary]."""
        key = tuple(ids)
        if key not in self._references:
            self._references[key] = self.compute(ids, min(READ_OUT, len(ids)))
        return self._references[key][-tail:]

    def compute(self, ids: Sequence[int], tail: int) -> Tensor:
        """The same, again."""
        tensor = torch.tensor([list(ids)], device=self._module.device)
        logits: Tensor = self._module(input_ids=tensor, use_cache=False, logits_to_keep=tail).logits
        return logits[0, -tail:].float()

    def padded(self, stage: Stage) -> float:
        """A padded batch."""
        sequences = self._family(stage)
        logit_counts = [min(8, len(ids)) for ids in sequences]
        return self._compared(sequences, logit_counts, self._padded(sequences, logit_counts))

    def _padded(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int]) -> list[Tensor]:
        return batch_logits(self._module, sequences, logit_counts, spread=self._spread)

    def decoded(self, stage: Stage) -> float:
        """The model's own cache, against reading the whole again."""
        runner = CacheRunner(self._module, self._padded, math.inf)
        apart = self._grown(runner, stage)
        if stage.edge:
            return max(apart, self._grown_across(runner, stage))
        return max(apart, self._grown_behind_padding(runner))

    def ragged(self, stage: Stage) -> float:
        """Rows of a ragged batch, with the last layer trimmed where that gives the same. It stays so.

        Raises:
            NotImplementedError: the model's code does not run on them.
        """
        try:
            return self._trimmed(stage)
        except (ValueError, IndexError, RuntimeError) as error:
            if isinstance(error, (NotImplementedError, torch.OutOfMemoryError)):
                raise
            # Mostly it needs the shapes of a batch of sequences, or its mask, for something beside attention.
            _log.info("on rows of several prompts: %s: %s", type(error).__name__, error)
            raise NotImplementedError("its code fails on rows of several prompts") from error

    def _trimmed(self, stage: Stage) -> float:
        if stage.edge:
            return self._ragged(stage)
        hooks = trim_last_layer(self._module)
        apart, _ = tried(lambda: self._ragged(stage)) if hooks else (math.inf, "")
        if apart <= self._tolerance:
            self.trims = True
            return apart
        for hook in hooks:
            hook.remove()
        return self._ragged(stage)

    def _ragged(self, stage: Stage) -> float:
        return max(self._in_batches(sequences, rows) for sequences, rows in self._raggeds(stage))

    def _raggeds(self, stage: Stage) -> Iterator[tuple[list[list[int]], int]]:
        """Sequences, and the rows of a batch."""
        family = self._family(stage)
        yield family, stage.length if stage.edge else 16
        if not stage.edge:
            # Enough rows without logits that the last layer is trimmed.
            many = -(-2 * WORTH_TRIMMING // stage.length)
            yield [self.ids(stage.length, 10 + seed) for seed in range(many)], many * stage.length
        if stage.exact:
            yield [self.ids(int(stage.limit))], int(stage.limit)

    def _in_batches(self, sequences: Sequence[Sequence[int]], rows: int) -> float:
        if not takes_function(self._module) and not hands_over(self._module):
            raise NotImplementedError("its code takes no attention function from outside")
        variants, logit_counts = Variants(self._module, self._span_of), _logit_counts(sequences)
        found: dict[int, Tensor] = {}
        for batch in variants.batches(sequences, logit_counts, max_tokens=rows, max_logits=READ_OUT):
            found.update(zip(batch.indices, batch.logits, strict=True))
        layers = self._module.config.get_text_config().num_hidden_layers
        if others := sorted(set(range(layers)) - set(variants.layers)):
            raise NotImplementedError(f"layers without a call of the attention function: {', '.join(map(str, others))}")
        return self._compared(sequences, logit_counts, [found[i] for i in range(len(sequences))])

    def served(self, stage: Stage) -> float:
        """The prefix cache, and steps of whole prompts, prefill chunks and decode rows."""
        cache, token = self.memory
        max_bytes = max(cache + token * (2 * stage.length + stage.length), _PREFIX_BYTES)
        runner = ModelRunner(self._module, self._span_of, max_bytes)
        apart = 0.0
        if not stage.edge:
            family = self._family(stage)
            chunks = [Chunk(ids, tail) for ids, tail in zip(family, _logit_counts(family), strict=True)]
            for _ in range(2):  # the second time behind what was read the first time
                apart = max(apart, self._compared(family, _logit_counts(family), runner.step(chunks).logits))
            apart = max(apart, self._grown_behind_padding(runner))
        return max(apart, self._grown(runner, stage))

    def differentiated(self, stage: Stage) -> float:
        """The rows whose gradients are taken."""
        if stage.edge:
            return 0.0  # as far as ragged batches
        ids = self.ids(stage.length)
        sequences = [ids, [self.other(ids[0]), *ids[1:]]]
        device = self._module.device
        points = lookup(self._module.get_input_embeddings(), torch.tensor(sequences, device=device))
        found = DenseForward(points, 1, (), self._span_of).forward(self._module).float()
        return self._compared(sequences, [1, 1], list(found))

    def cached(self, stage: Stage) -> float:
        """Batches behind a cached prefix."""
        family = self._family(stage)
        run = CachedRun(self._module)
        apart = 0.0
        # Behind a prefix within the bound, and behind one that is beyond it.
        for known in (stage.edge - 1, stage.length - READ_OUT) if stage.edge else (stage.length // 2,):
            prefix = family[0][: max(1, known)]
            run.read(prefix)
            sequences = [ids for ids in family if ids[: len(prefix)] == prefix and len(ids) > len(prefix)]
            logit_counts = [1] * len(sequences)
            found: dict[int, Tensor] = {}
            for batch in run.batches(sequences, logit_counts, max_tokens=4 * stage.length, max_logits=READ_OUT):
                found.update(zip(batch.indices, batch.logits, strict=True))
            logits = [found[i] for i in range(len(sequences))]
            apart = max(apart, self._compared(sequences, logit_counts, logits))
        return apart

    def captured(self, stage: Stage) -> float:
        """The model's forward with our attention function."""
        ids = self.ids(stage.length)
        with registered(self._module):
            return difference(self.compute(ids, 1), self.reference(ids))

    # Parts of them.

    def _grown(self, runner: Runner, stage: Stage) -> float:
        """How far two sequences that grow together, and one beside a whole prompt, are from the plain forward.

        The first one's prompt comes in two chunks, the second of them beside the other's.
        """
        fewer = self._fewer(stage)
        steps = stage.length - fewer
        texts = [
            ids for ids in (self.ids(stage.length), self.ids(min(5 + steps, stage.length - 1), 3)) if len(ids) > steps
        ]
        prompts = [ids[: len(ids) - steps] for ids in texts]
        numbers = [runner.begin() for _ in texts]
        half = len(prompts[0]) // 2
        if half:
            runner.step([Chunk(prompts[0][:half], 0, numbers[0])])
        chunks = [Chunk(prompts[0][half:], 1, numbers[0])]
        chunks += [Chunk(ids, 1, number) for ids, number in zip(prompts[1:], numbers[1:], strict=True)]
        differences = [self._compared(prompts, [1] * len(prompts), runner.step(chunks).logits)]
        if isinstance(runner, CacheRunner) and not stage.edge:
            self._measure(runner, numbers, prompts)
        for step in range(steps):
            added = [text[len(prompt) + step] for text, prompt in zip(texts, prompts, strict=True)]
            rows = runner.step([Chunk([token], 1, number) for token, number in zip(added, numbers, strict=True)]).logits
            if step == steps - 1:
                differences.append(self._compared(texts, [1] * len(texts), rows))
        runner.drop(numbers[0])
        if len(texts) == 2:
            longer = [*texts[1], self.other(texts[1][0])]
            result = runner.step([Chunk(longer[-1:], 1, numbers[1]), Chunk(texts[1])])
            differences.append(self._compared([longer, texts[1]], [1, 1], result.logits))
            runner.drop(numbers[1])
        return max(differences)

    def _measure(self, runner: CacheRunner, numbers: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """Note what the caches of two prompts take."""
        if len(prompts) == 2:
            longer, shorter = (runner.sequences[number].bytes for number in numbers)
            token = max(0, longer - shorter) // (len(prompts[0]) - len(prompts[1]))
            self.memory = max(0, longer - token * len(prompts[0])), token

    def _grown_across(self, runner: Runner, stage: Stage) -> float:
        """The same of a sequence that begins within a bound and grows beyond it, right behind the bound and farther."""
        ids, known = self.ids(stage.length), max(1, stage.edge - 1)
        number = runner.begin()
        runner.step([Chunk(ids[:known], 1, number)])
        apart = 0.0
        for length in range(known + 1, stage.length + 1):
            logits = runner.step([Chunk([ids[length - 1]], 1, number)]).logits
            if length in {stage.edge + 1, stage.length}:
                apart = max(apart, difference(logits[0], self.reference(ids[:length])))
        runner.drop(number)
        return apart

    def _grown_behind_padding(self, runner: Runner) -> float:
        """The same of a sequence with the padding token in it, which some models do not count as one."""
        if self._padding is None:
            return 0.0
        ids = [*self.ids(2), self._padding, self.other(self._padding)]
        longer = [*ids, self.other(ids[0])]
        number = runner.begin()
        first, second = (runner.step([Chunk(some, 1, number)]).logits[0] for some in (ids, longer[-1:]))
        runner.drop(number)
        return max(difference(first, self.reference(ids)), difference(second, self.reference(longer)))

    def _fewer(self, stage: Stage) -> int:
        """Of some tokens fewer than the trial's longest prompt has, and beyond the same bound."""
        return max(stage.edge + 1, stage.length - MIN_BEYOND) if stage.edge else max(1, stage.length - 1)

    def _family(self, stage: Stage) -> list[list[int]]:
        """Sequences some of which begin alike, the longest first."""
        ids = self.ids(stage.length)
        sequences = [ids, self.ids(min(3, stage.length), 1)]
        if stage.edge:
            # Also beyond the bound, and padded in a batch; and right behind it, which a window has not left yet.
            return [*sequences, ids[: self._fewer(stage)], ids[: stage.edge + 1]]
        middle = stage.length // 2
        changed = [*ids[:middle], self.other(ids[middle]), *ids[middle + 1 :]]
        padded = [[*ids[:middle], self._padding, ids[0]]] if self._padding is not None else []
        return [*sequences, [*ids[:-1], self.other(ids[-1])], changed, ids[: middle + 1], self.ids(1, 2), *padded]

    def _compared(
        self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], found: Sequence[Tensor]
    ) -> float:
        rows = zip(sequences, logit_counts, found, strict=True)
        return max((difference(one, self.reference(ids, tail)) for ids, tail, one in rows), default=math.inf)

    def ids(self, count: int, seed: int = 0) -> list[int]:
        """Tokens without a pattern. Of one `seed`, fewer are the first of more."""
        random = np.random.default_rng(seed)
        return [int(token) for token in random.random(count) * self._vocabulary]

    def other(self, token: int) -> int:
        """Another token."""
        return (token + self._vocabulary // 2) % self._vocabulary


def _logit_counts(sequences: Sequence[Sequence[int]]) -> list[int]:
    return [min(1 + index % 2, len(ids)) for index, ids in enumerate(sequences)]


def tried(trial: Callable[[], float]) -> tuple[float, str]:
    """The difference that a trial gives; where it fails, an infinite one, and why it fails, in words."""
    try:
        return trial(), ""
    except NotImplementedError as error:  # what the runtime itself says
        return math.inf, str(error) or "is not implemented"
    except Exception as error:  # noqa: BLE001 - models refuse what they do not know in ways of their own
        reason = str(error).strip().partition("\n")[0][:_LONGEST_REASON]
        return math.inf, f"fails: {type(error).__name__}: {reason}"


def difference(found: Tensor, reference: Tensor) -> float:
    """The largest difference of two logits, as a share of the largest logit. Equal infinities and no numbers agree."""
    same = (found == reference) | (found.isnan() & reference.isnan())
    apart = (found.float() - reference).abs().masked_fill(same, 0.0)
    if not apart.numel():
        return 0.0
    largest = reference.masked_fill(~reference.isfinite(), 0.0).abs().amax()
    share = float(apart.amax() / largest.clamp(min=1e-30))
    return math.inf if math.isnan(share) else share
