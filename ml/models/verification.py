"""What a model may use: each fast way, tried out against the model's own plain forward when it is loaded.

The plain forward is what transformers gives for one prompt, with the attention function that transformers chose. A
fast way that gives the same is used, alone and in mixed batches, up to the longest prompt for which it does: models
with windows, chunks, sparse attention or several sets of rotary factors are ordinary ones up to some length only (see
`ml.models.bounds`), so each way is tried on both sides of each such length. What gives something else is not used, and
one line of the log says what, from which length on, and by how much.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.errors import ModelLoadError
from ml.language_model import Decoder
from ml.models.batches import batch_logits
from ml.models.bounds import Bound, bounds, compares_names
from ml.models.cached_batches import CachedRun
from ml.models.decoding import CacheDecoder, SlotDecoder
from ml.models.embedding import lookup
from ml.models.gradients import BatchRun
from ml.models.implementation import registered
from ml.models.last_layer import trim_last_layer
from ml.models.packed_attention import PackedRun
from ml.models.prefix_reader import PrefixReader
from ml.packing import Packing

_log = logging.getLogger(__name__)

_SHORT = 40
"""Tokens of a trial below all bounds: more than a block of the prefix cache."""
_BEYOND = 48
"""Tokens that a trial goes beyond a bound, or twice the bound where that is less, and no fewer than `_FEWEST`."""
_FEWEST = 12
_LONGEST = 1024
"""Bounds up to this many tokens are tried out."""
_EXACT = 256
"""Bounds up to this many tokens are tried out by prompts of exactly as many, too."""
_WORK = 2e13
"""Operations on a CPU that the trials beyond a bound may take, about a minute of a small machine."""
_PASSES = 10
"""Plain forwards that the trials beyond a bound cost, about."""
_TOLERANCE = 1e-4
"""Of the largest logit in float32: another order of sums stays below, a token more in a window does not."""
_HALF_TOLERANCE = 5e-2
"""The same in half precision, which rounds differently in other company."""
_PREFIX_BYTES = 1 << 20
"""Of a prefix cache that is tried out, at least."""
_READ_OUT = 16
"""Last positions at which a prompt's logits are compared, at most."""


@dataclass(frozen=True)
class Ways:
    """Up to how many tokens of the longest prompt each way gives what the plain forward gives; 0 is never.

    Attributes:
        padded: a batch of prompts, padded on the right.
        packed: packed rows, each distinct prefix once.
        read: the prefix reader and the slot decoder.
        differentiated: gradients by packed rows.
        cached: batches behind a cached prefix.
        decoded: a decoder with the model's own cache.
        captured: the model's forward with our attention function in place of its own.
        cache_bytes: memory of a sequence's cache, to which each token adds `token_bytes`.
    """

    padded: float = 0
    packed: float = 0
    read: float = 0
    differentiated: float = 0
    cached: float = 0
    decoded: float = 0
    captured: float = 0
    cache_bytes: int = 0
    token_bytes: int = 0


_NAMES = {
    "padded": "padded batches",
    "packed": "packed rows",
    "read": "the prefix cache and batched decoding",
    "differentiated": "packed gradients",
    "cached": "cached batches",
    "decoded": "decoding with a cache",
    "captured": "attention without eager layers",
}


def verify(module: PreTrainedModel, context_length: int, name: str, *, spread: bool = False) -> Ways:
    """Try out on `module`, prepared by `attention_capture.prepare`, what it may use.

    Where it computes packed rows with its last layer trimmed, it stays so.

    Args:
        context_length: of the longest prompt.
        name: what callers know the model by.
        spread: whether its layers lie on several devices.

    Raises:
        ModelLoadError: the model cannot compute, is not causal, or answers the same prompt in two ways.
    """
    return _Verification(module, context_length, name, spread).run()


@dataclass(frozen=True)
class _Stage:
    """Trials whose longest prompt has `length` tokens, which show how a way does up to `limit`.

    Attributes:
        edge: the bound that `length` is beyond of; 0 below the first one.
        exact: whether a prompt of exactly `limit` tokens is tried, too.
    """

    length: int
    limit: float
    edge: int
    exact: bool


class _Verification:
    def __init__(self, module: PreTrainedModel, context_length: int, name: str, spread: bool) -> None:
        self._module, self._context, self._name, self._spread = module, context_length, name, spread
        self._vocabulary: int = module.config.get_text_config().vocab_size
        self._half = module.dtype not in {torch.float32, torch.float64}
        self._tolerance = _HALF_TOLERANCE if self._half else _TOLERANCE
        self._near, self._far = self._edges()
        self._compares_names = compares_names(module)
        self._references: dict[tuple[int, ...], Tensor] = {}
        self._memory = (0, 0)

    @torch.inference_mode()
    def run(self) -> Ways:
        """See `verify`."""
        try:
            self._check_plain()
        except ModelLoadError:
            raise
        except Exception as error:  # each architecture has its own ways to fail
            reason = str(error).strip().partition("\n")[0]
            message = f"model {self._name!r} cannot compute a prompt here: {type(error).__name__}: {reason}"
            raise ModelLoadError(message) from error
        found = dict.fromkeys(_NAMES, 0.0)
        differences: dict[str, float] = {}
        for stage in self._stages():
            for way, trial in self._trials(stage, differences):
                if way in differences:
                    continue  # it ended at a bound before
                difference = _tried(trial)
                if difference <= self._tolerance:
                    found[way] = stage.limit
                else:
                    differences[way] = difference
        ways = Ways(**self._beyond(found), cache_bytes=self._memory[0], token_bytes=self._memory[1])
        self._tell(ways, differences)
        return ways

    # The plain forward.

    def _reference(self, ids: Sequence[int], tail: int = 1) -> Tensor:
        """What the plain forward says after the last `tail` tokens, float32 [tail, vocabulary]."""
        key = tuple(ids)
        if key not in self._references:
            self._references[key] = self._compute(ids, min(_READ_OUT, len(ids)))
        return self._references[key][-tail:]

    def _compute(self, ids: Sequence[int], tail: int) -> Tensor:
        tensor = torch.tensor([list(ids)], device=self._module.device)
        logits: Tensor = self._module(input_ids=tensor, use_cache=False, logits_to_keep=tail).logits
        return logits[0, -tail:].float()

    def _check_plain(self) -> None:
        """Raise `ModelLoadError` where the plain forward is none of a causal language model."""
        ids = self._ids(min(_SHORT, self._context))
        tail = min(_READ_OUT, len(ids))
        plain = self._reference(ids, tail)
        if plain.shape[0] != tail or plain.shape[-1] < self._vocabulary:
            raise ModelLoadError(f"model {self._name!r} does not give logits for each token; it is no language model")
        changed = self._reference([*ids[:-1], self._other(ids[-1])], tail)
        if _difference(changed[:-1], plain[:-1]) <= self._tolerance:
            return
        if not _difference(self._compute(ids, tail), plain) <= self._tolerance:
            raise ModelLoadError(f"model {self._name!r} answers the same prompt in two ways; serve another model")
        raise ModelLoadError(
            f"model {self._name!r} is not causal: a later token changes what it says of earlier ones; serve a "
            "decoder (of an encoder's architecture, a model that was trained with is_decoder)"
        )

    # What is tried.

    def _edges(self) -> tuple[list[int], list[Bound]]:
        """The bounds that are tried out, and those that are not."""
        near: list[int] = []
        far: list[Bound] = []
        work = 0.0
        for bound in bounds(self._module, self._context):
            work += 2.0 * self._module.num_parameters() * _PASSES * bound.tokens
            if bound.tokens > _LONGEST or (self._module.device.type == "cpu" and work > _WORK):
                far.append(bound)
            elif bound.tokens not in near:
                near.append(bound.tokens)
        return near, far

    def _stages(self) -> Iterator[_Stage]:
        end = min((bound.tokens for bound in self._far), default=math.inf)
        for edge, limit in itertools.pairwise([0, *self._near, end]):
            length = edge + max(_FEWEST, min(2 * edge, _BEYOND)) if edge else _SHORT
            yield _Stage(
                int(min(length, limit, self._context)), limit, int(edge), limit in self._near and limit <= _EXACT
            )

    def _beyond(self, found: Mapping[str, float]) -> dict[str, float]:
        """How far the ways go, given how far they were `found` to go, where bounds were not tried out."""
        end = min((bound.tokens for bound in self._far), default=math.inf)
        whole = min((bound.tokens for bound in self._far if bound.whole), default=math.inf)
        # Half precision does not show what some tokens more in a window do.
        packed = min([end, *self._near]) if self._half else end
        limits = {
            "packed": packed,
            "read": packed,
            "differentiated": packed,
            "cached": end,
            # The rest runs the model's own code, which knows its windows.
            "padded": whole,
            "decoded": whole,
            "captured": end if self._compares_names else math.inf,
        }
        return {way: limits[way] if limit == end else min(limit, limits[way]) for way, limit in found.items()}

    def _tell(self, ways: Ways, differences: Mapping[str, float]) -> None:
        """One line about what is not used."""
        told = []
        for way, name in _NAMES.items():
            limit = getattr(ways, way)
            if limit < self._context and (way in differences or limit):
                beyond = f" beyond {limit:.0f} tokens" if limit else ""
                told.append(f"{name}{beyond} ({_words(differences.get(way))})")
        if told:
            _log.warning(
                "model=%s goes by its own forward, which takes longer, in place of: %s", self._name, "; ".join(told)
            )

    # The ways.

    def _trials(self, stage: _Stage, differences: Mapping[str, float]) -> Iterator[tuple[str, Callable[[], float]]]:
        yield "padded", lambda: self._padded(stage)
        yield "decoded", lambda: self._decoded(stage)  # before those that need to know what a token takes
        yield "packed", lambda: self._packed(stage)
        if "packed" not in differences:
            yield "read", lambda: self._read(stage)
            yield "differentiated", lambda: self._differentiated(stage)
        if "packed" in differences or self._near or self._far:
            yield "cached", lambda: self._cached(stage)
        if not stage.edge or self._compares_names:
            yield "captured", lambda: self._captured(stage)
        else:
            yield "captured", lambda: 0.0

    def _padded(self, stage: _Stage) -> float:
        sequences = self._family(stage)
        tails = [min(8, len(ids)) for ids in sequences]
        return self._compared(sequences, tails, batch_logits(self._module, sequences, tails, spread=self._spread))

    def _decoded(self, stage: _Stage) -> float:
        difference = self._grown(CacheDecoder(self._module, math.inf), stage)
        if stage.edge:
            difference = max(difference, self._grown_across(CacheDecoder(self._module, math.inf), stage))
        return difference

    def _packed(self, stage: _Stage) -> float:
        if stage.edge:
            return self._pack(stage)
        hooks = trim_last_layer(self._module)
        difference = _tried(lambda: self._pack(stage)) if hooks else math.inf
        if difference <= self._tolerance:
            return difference
        for hook in hooks:
            hook.remove()
        return self._pack(stage)

    def _pack(self, stage: _Stage) -> float:
        return max(self._pack_in_steps(sequences, rows) for sequences, rows in self._packings(stage))

    def _packings(self, stage: _Stage) -> Iterator[tuple[list[list[int]], int]]:
        """Sequences, and the rows of a step."""
        family = self._family(stage)
        yield family, stage.length if stage.edge else 16
        if stage.exact:
            yield [self._ids(int(stage.limit))], int(stage.limit)

    def _pack_in_steps(self, sequences: Sequence[Sequence[int]], rows: int) -> float:
        run = PackedRun()
        tails = _tails(sequences)
        found: dict[int, Tensor] = {}
        for step in Packing(sequences, tails).steps(max_rows=rows, max_readout=_READ_OUT):
            logits = run.forward(self._module, step).float()
            if not step.is_trunk:
                indices = step.sequences.tolist()
                found.update(zip(indices, logits.split([tails[i] for i in indices]), strict=True))
        if len(run.layers) != self._module.config.get_text_config().num_hidden_layers:
            return math.inf  # a layer had its own way with the rows
        return self._compared(sequences, tails, [found[i] for i in range(len(sequences))])

    def _read(self, stage: _Stage) -> float:
        cache, token = self._memory
        reader = PrefixReader(self._module, max(cache + token * (2 * stage.length + _SHORT), _PREFIX_BYTES))
        difference = 0.0
        if not stage.edge:
            family = self._family(stage)
            for _ in range(2):  # the second time behind what was read the first time
                reading = reader.read(family, _tails(family))
                difference = max(difference, self._compared(family, _tails(family), reading.logits))
        return max(difference, self._grown(SlotDecoder(self._module, reader), stage))

    def _differentiated(self, stage: _Stage) -> float:
        if stage.edge:
            return 0.0  # as far as packed rows
        ids = self._ids(stage.length)
        sequences = [ids, [self._other(ids[0]), *ids[1:]]]
        device = self._module.device
        points = lookup(self._module.get_input_embeddings(), torch.tensor(sequences, device=device))
        found = BatchRun(points, 1, ()).forward(self._module).float()
        return self._compared(sequences, [1, 1], list(found))

    def _cached(self, stage: _Stage) -> float:
        family = self._family(stage)
        run = CachedRun(self._module)
        difference = 0.0
        # Behind a prefix within the bound, and behind one that is beyond it.
        for known in (stage.edge - 1, stage.length - _READ_OUT) if stage.edge else (stage.length // 2,):
            prefix = family[0][: max(1, known)]
            run.read(prefix)
            sequences = [ids for ids in family if ids[: len(prefix)] == prefix and len(ids) > len(prefix)]
            tails = [1] * len(sequences)
            found: dict[int, Tensor] = {}
            for batch in run.batches(sequences, tails, max_tokens=4 * stage.length, max_readout=_READ_OUT):
                found.update(zip(batch.indices, batch.logits, strict=True))
            logits = [found[i] for i in range(len(sequences))]
            difference = max(difference, self._compared(sequences, tails, logits))
        return difference

    def _captured(self, stage: _Stage) -> float:
        ids = self._ids(stage.length)
        with registered(self._module):
            return _difference(self._compute(ids, 1), self._reference(ids))

    # Parts of them.

    def _grown(self, decoder: Decoder, stage: _Stage) -> float:
        """How far two sequences that grow together, and one when the other has left, are from the plain forward."""
        fewer = self._fewer(stage)
        steps = stage.length - fewer
        texts = [
            ids for ids in (self._ids(stage.length), self._ids(min(5 + steps, stage.length - 1), 3)) if len(ids) > steps
        ]
        prompts = [ids[: len(ids) - steps] for ids in texts]
        differences = [_difference(decoder.start(ids).unsqueeze(0), self._reference(ids)) for ids in prompts]
        if isinstance(decoder, CacheDecoder) and not stage.edge:
            self._measure(decoder, prompts)
        for step in range(steps):
            rows = decoder.step([text[len(prompt) + step] for text, prompt in zip(texts, prompts, strict=True)])
            if step == steps - 1:
                differences += [
                    _difference(row.unsqueeze(0), self._reference(ids)) for row, ids in zip(rows, texts, strict=True)
                ]
        if len(texts) == 2:
            decoder.leave(0)
            longer = [*texts[1], self._other(texts[1][0])]
            differences.append(_difference(decoder.step(longer[-1:]), self._reference(longer)))
        return max(differences, default=0.0)

    def _measure(self, decoder: CacheDecoder, prompts: Sequence[Sequence[int]]) -> None:
        """Note what the caches of two prompts take."""
        if len(prompts) == 2:
            longer, shorter = decoder.cached_bytes(0), decoder.cached_bytes(1)
            token = max(0, longer - shorter) // (len(prompts[0]) - len(prompts[1]))
            self._memory = max(0, longer - token * len(prompts[0])), token

    def _grown_across(self, decoder: Decoder, stage: _Stage) -> float:
        """The same of a sequence that begins within a bound and grows beyond it."""
        ids, known = self._ids(stage.length), max(1, stage.edge - 1)
        logits = decoder.start(ids[:known])
        for token in ids[known:]:
            logits = decoder.step([token])[0]
        return _difference(logits[None], self._reference(ids))

    def _fewer(self, stage: _Stage) -> int:
        """Of some tokens fewer than the trial's longest prompt has, and beyond the same bound."""
        return max(stage.edge + 1, stage.length - _FEWEST) if stage.edge else max(1, stage.length - 1)

    def _family(self, stage: _Stage) -> list[list[int]]:
        """Sequences some of which begin alike, the longest first."""
        ids = self._ids(stage.length)
        sequences = [ids, self._ids(min(3, stage.length), 1)]
        if stage.edge:
            # Also beyond the bound, and padded in a batch.
            return [*sequences, ids[: self._fewer(stage)]]
        middle = stage.length // 2
        changed = [*ids[:middle], self._other(ids[middle]), *ids[middle + 1 :]]
        return [*sequences, [*ids[:-1], self._other(ids[-1])], changed, ids[: middle + 1], self._ids(1, 2)]

    def _compared(self, sequences: Sequence[Sequence[int]], tails: Sequence[int], found: Sequence[Tensor]) -> float:
        rows = zip(sequences, tails, found, strict=True)
        return max((_difference(one, self._reference(ids, tail)) for ids, tail, one in rows), default=math.inf)

    def _ids(self, count: int, seed: int = 0) -> list[int]:
        """Tokens without a pattern. Of one `seed`, fewer are the first of more."""
        random = np.random.default_rng(seed)
        return [int(token) for token in random.random(count) * self._vocabulary]

    def _other(self, token: int) -> int:
        return (token + self._vocabulary // 2) % self._vocabulary


def _tails(sequences: Sequence[Sequence[int]]) -> list[int]:
    return [min(1 + index % 2, len(ids)) for index, ids in enumerate(sequences)]


def _tried(trial: Callable[[], float]) -> float:
    try:
        return trial()
    except Exception:  # noqa: BLE001 - models refuse what they do not know in ways of their own
        return math.inf


def _difference(found: Tensor, reference: Tensor) -> float:
    """The largest difference of two logits, as a share of the largest logit. Where neither is a number, none."""
    apart = (found.float() - reference).abs()
    apart = apart.masked_fill(found.isnan() & reference.isnan(), 0.0)
    if not apart.numel():
        return 0.0
    largest = reference[~reference.isnan()].abs().amax() if not bool(reference.isnan().all()) else torch.ones(())
    share = float(apart.max() / largest.clamp(min=1e-30))
    return math.inf if math.isnan(share) else share


def _words(difference: float | None) -> str:
    if difference is None:
        return "not tried out so far"
    return "fails" if math.isinf(difference) else f"differs by {difference:.1g} of the largest logit"
