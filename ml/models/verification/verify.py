"""What a model may use: each fast way, tried out against the model's own plain forward when it is loaded.

The plain forward is what transformers gives for one prompt, with the attention function that transformers chose. A
fast way that gives the same is used, alone and in mixed batches, up to the longest prompt for which it does: models
with windows, chunks, sparse attention or several sets of rotary factors are ordinary ones up to some length only (see
`ml.models.verification.bounds`), so each way is tried on both sides of each such length. What gives something else is
not used, and `Ways.unused` says what, from which length on, and by how much.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ml.errors import ModelLoadError
from ml.models.internals.attention_capture import prepare
from ml.models.verification.bounds import Bound, bounds, compares_names
from ml.models.verification.shrinking import CONTEXT as SMALL_CONTEXT
from ml.models.verification.shrinking import shrunken
from ml.models.verification.trials import MIN_BEYOND, READ_OUT, Stage, Trials, difference, tried

_log = logging.getLogger(__name__)

_SHORT = 40
"""Tokens of a trial below all bounds: more than a block of the prefix cache."""
_BEYOND = 48
"""Tokens that a trial goes beyond a bound, or twice the bound where that is less, and no fewer than `MIN_BEYOND`."""
_LONGEST = 1024
"""Bounds up to this many tokens are tried out."""
_EXACT = 256
"""Bounds up to this many tokens are tried out by prompts of exactly as many, too."""
_WORK = 5e12
"""Operations on a CPU that the trials beyond a bound may take, less than a minute of a small machine."""
_PASSES = 10
"""Plain forwards that the trials beyond a bound cost, about."""
_TOLERANCE = 1e-4
"""Of the largest logit in float32: another order of sums stays below, a token more in a window does not."""
_HALF_TOLERANCE = 5e-2
"""The same in half precision, which rounds differently in other company."""


def tolerance(module: PreTrainedModel) -> float:
    """What two ways may differ by, as a share of the largest logit."""
    return _TOLERANCE if module.dtype in {torch.float32, torch.float64} else _HALF_TOLERANCE


NAMES = {
    "padded": "padded batches",
    "ragged": "ragged batches",
    "served": "prefix cache and batched decoding",
    "differentiated": "gradients in batches of rows",
    "cached": "cached batches",
    "decoded": "decoding with a cache",
    "captured": "attention without eager layers",
}
"""What callers know each way by."""


@dataclass(frozen=True)
class Ways:
    """Up to how many tokens of the longest prompt each way gives what the plain forward gives; 0 is never.

    Attributes:
        padded: a batch of prompts, padded on the right.
        ragged: rows of a ragged batch, each distinct prefix once.
        served: the prefix cache and decoding of many sequences together.
        differentiated: gradients by rows of a batch.
        cached: batches behind a cached prefix.
        decoded: a decoder with the model's own cache.
        captured: the model's forward with our attention function in place of its own.
        cache_bytes: memory of a sequence's cache, to which each token adds `token_bytes`.
        trims: whether the last layer of a ragged batch computes only the rows whose logits are asked for.
        unused: what is not used at some length that the context allows, and why, in words.
    """

    padded: float = 0
    ragged: float = 0
    served: float = 0
    differentiated: float = 0
    cached: float = 0
    decoded: float = 0
    captured: float = 0
    cache_bytes: int = 0
    token_bytes: int = 0
    trims: bool = False
    unused: str = ""

    def capabilities(self, context_length: int) -> tuple[tuple[str, int | None], ...]:
        """The ways that are used, and up to how many tokens; None where the whole context is."""
        limits = ((name, getattr(self, way)) for way, name in NAMES.items())
        return tuple((name, int(limit) if limit < context_length else None) for name, limit in limits if limit)


def verify(module: PreTrainedModel, context_length: int, name: str, *, spread: bool = False) -> Ways:
    """Try out on `module`, prepared by `attention_capture.prepare`, what it may use.

    Where it computes ragged batches with its last layer trimmed, it stays so.

    Args:
        context_length: of the longest prompt.
        name: what callers know the model by.
        spread: whether its layers lie on several devices.

    Raises:
        ModelLoadError: the model cannot compute, is not causal, or answers the same prompt in two ways.
    """
    return _Verification(module, context_length, name, spread=spread).run()


class _Verification:
    def __init__(
        self, module: PreTrainedModel, context_length: int, name: str, *, spread: bool, small: bool = False
    ) -> None:
        """Verify `module`. `small`: whether it stands for a larger one, and is not reported."""
        self._module, self._context, self._name, self._small = module, context_length, name, small
        self._half = module.dtype not in {torch.float32, torch.float64}
        self._tolerance = tolerance(module)
        self._near, self._far = self._edges()
        self._compares_names = compares_names(module)
        self._trial = Trials(module, self._tolerance, spread=spread)

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
        found = dict.fromkeys(NAMES, 0.0)
        differences: dict[str, str] = {}
        for stage in self._stages():
            for way, trial in self._trials(stage, differences):
                if way in differences:
                    continue  # it ended at a bound before
                apart, failure = tried(trial)
                if apart <= self._tolerance:
                    found[way] = stage.limit
                else:
                    differences[way] = failure or f"differs by {apart:.1g} of the largest logit"
        limits = self._beyond(found)
        cache_bytes, token_bytes = self._trial.memory
        ways = Ways(**limits, cache_bytes=cache_bytes, token_bytes=token_bytes)  # type: ignore[arg-type]
        return replace(ways, trims=self._trial.trims, unused=self._unused(limits, differences))

    def _check_plain(self) -> None:
        """Raise `ModelLoadError` where the plain forward is none of a causal language model."""
        ids = self._trial.ids(min(_SHORT, self._context))
        tail = min(READ_OUT, len(ids))
        plain = self._trial.reference(ids, tail)
        if plain.shape[:-1] != (tail,):
            raise ModelLoadError(f"model {self._name!r} does not give logits for each token; it is no language model")
        changed = self._trial.reference([*ids[:-1], self._trial.other(ids[-1])], tail)
        if difference(changed[:-1], plain[:-1]) <= self._tolerance:
            return
        if not difference(self._trial.compute(ids, tail), plain) <= self._tolerance:
            raise ModelLoadError(f"model {self._name!r} answers the same prompt in two ways; serve another model")
        raise ModelLoadError(
            f"model {self._name!r} is not causal: a later token changes what it says of earlier ones; serve a "
            "decoder (of an encoder's architecture, a model that was trained with is_decoder)"
        )

    def _edges(self) -> tuple[list[int], list[Bound]]:
        """The bounds that are tried out, and those that are not."""
        near: list[int] = []
        far: list[Bound] = []
        work = 0.0
        for bound in bounds(self._module, self._context):
            if bound.tokens in near:
                continue
            work += 2.0 * self._module.num_parameters() * _PASSES * bound.tokens
            if bound.tokens > _LONGEST or (self._module.device.type == "cpu" and work > _WORK):
                far.append(bound)
            else:
                near.append(bound.tokens)
        return near, far

    def _stages(self) -> Iterator[Stage]:
        end = min((bound.tokens for bound in self._far), default=math.inf)
        for edge, limit in itertools.pairwise([0, *self._near, end]):
            length = edge + max(MIN_BEYOND, min(2 * edge, _BEYOND)) if edge else _SHORT
            yield Stage(
                int(min(length, limit, self._context)), limit, int(edge), limit in self._near and limit <= _EXACT
            )

    def _beyond(self, found: Mapping[str, float]) -> dict[str, float]:
        """How far the ways go, given how far they were `found` to go, where bounds were not tried out.

        A small model of the same code goes beyond them in their place.
        """
        far = [bound.tokens for bound in self._far]
        whole = [bound.tokens for bound in self._far if bound.whole]
        # Half precision does not show what some tokens more in a window do.
        rows = [*far, *self._near] if self._half else far
        bounded = {
            **dict.fromkeys(("ragged", "served", "differentiated"), rows),
            "cached": far,
            # The rest runs the model's own code, which knows its windows.
            "padded": whole,
            "decoded": whole,
            "captured": far if self._compares_names else [],
        }
        small = self._shrunken() if any(bounded.values()) else None
        end = min(far, default=math.inf)
        limits: dict[str, float] = {}
        for way, tokens in bounded.items():
            beyond = small is not None and math.isinf(getattr(small, way))
            limit = math.inf if beyond else min(tokens, default=math.inf)
            # What was found ends at the first bound that was not tried out, or before it, where something differed.
            limits[way] = limit if found[way] == end else min(found[way], limit)
        return limits

    def _shrunken(self) -> Ways | None:
        """What a small model of the same class may use; None where none can be made, or it cannot be served."""
        module = None if self._small else shrunken(self._module)
        if module is None:
            return None
        prepare(module)
        try:
            return _Verification(module, SMALL_CONTEXT, self._name, spread=False, small=True).run()
        except ModelLoadError as error:
            _log.info("model=%s a small model of its architecture cannot be tried out: %s", self._name, error)
            return None

    def _unused(self, found: Mapping[str, float], differences: Mapping[str, str]) -> str:
        """What is not used, and why, in words."""
        lines = []
        for way, name in NAMES.items():
            limit = found[way]
            as_ragged = way in {"served", "differentiated"} and limit == found["ragged"] and way not in differences
            if limit < self._context and (way in differences or limit) and not as_ragged:
                beyond = f" beyond {limit:.0f} tokens" if limit else ""
                lines.append(f"{name}{beyond} ({differences.get(way, 'not tried out so far')})")
        return "; ".join(lines)

    def _trials(self, stage: Stage, differences: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], float]]]:
        yield "padded", lambda: self._trial.padded(stage)
        yield "decoded", lambda: self._trial.decoded(stage)  # before those that need to know what a token takes
        yield "ragged", lambda: self._trial.ragged(stage)
        if "ragged" not in differences:
            yield "served", lambda: self._trial.served(stage)
            yield "differentiated", lambda: self._trial.differentiated(stage)
        if "ragged" in differences or self._near or self._far:
            yield "cached", lambda: self._trial.cached(stage)
        if not stage.edge or self._compares_names:
            yield "captured", lambda: self._trial.captured(stage)
        else:
            yield "captured", lambda: 0.0
