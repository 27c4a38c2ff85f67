"""Generating text: which token comes next, which text is certain by now, and when it ends. No model in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ml.errors import InputError, PromptTooLongError
from ml.prediction import MAX_TOP_K
from ml.tokens import Tokenizer

DEFAULT_TOKENS = 64
_FIRST_NUCLEUS = 256


class FinishReason(Enum):
    """Why a generation ended."""

    END_OF_TEXT = "end of text"
    LENGTH = "length"
    STOP = "stop"


@dataclass(frozen=True)
class GenerationSpec:
    """How to continue a prompt.

    Attributes:
        max_tokens: the most tokens to generate; None for 64, or as many as the model's context has room for.
        temperature: 0 takes the most likely token; above 0, tokens are drawn at this temperature.
        top_p: draws from the smallest set of tokens whose probabilities sum to this (Holtzman et al. 2020).
        seed: of the draws.
        stop: the text ends before the first of these.
        top_k: alternatives to list at each position.
        no_placeholders: whether mask and unknown tokens are never generated, however likely; they are listed.

    Raises:
        InputError: a value is not allowed, whatever the model.
    """

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top_k: int = 0
    no_placeholders: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InputError("max_tokens", f"must be at least 1, not {self.max_tokens}")
        if not 0 <= self.temperature <= 100:
            raise InputError("temperature", f"must be between 0 and 100, not {self.temperature:g}")
        if not 0 < self.top_p <= 1:
            raise InputError("top_p", f"must be above 0 and at most 1, not {self.top_p:g}")
        if not 0 <= self.top_k <= MAX_TOP_K:
            raise InputError("top_k", f"must be between 0 and {MAX_TOP_K}, not {self.top_k}")
        for index, text in enumerate(self.stop):
            if not text:
                raise InputError(f"stop[{index}]", "is empty; leave it out")

    def tokens(self, prompt: int, context_length: int) -> int:
        """The most tokens to generate after `prompt` tokens.

        Raises:
            PromptTooLongError: prompt and generation do not fit the context.
        """
        capacity = context_length - prompt
        if capacity < 1:
            message = f"the prompt has {prompt} tokens, all that this model reads, so none can follow; shorten it"
            raise PromptTooLongError("prompt", prompt + 1, context_length, message)
        if self.max_tokens is None:
            return min(DEFAULT_TOKENS, capacity)
        if self.max_tokens > capacity:
            message = (
                f"must be at most {capacity}, not {self.max_tokens}: this model reads at most {context_length} tokens,"
                f" and {prompt} are the prompt's"
            )
            raise PromptTooLongError("max_tokens", prompt + self.max_tokens, context_length, message)
        return self.max_tokens


@dataclass(frozen=True)
class Step:
    """What one more token brought.

    Attributes:
        token_id: the token.
        log_probability: its natural log-probability, after the temperature and before top-p.
        top: the most likely tokens and their log-probabilities.
        text: what became certain: no part of a character, and nothing that may yet become a stop text.
        finish: why it was the last token; None while there is more to come.
    """

    token_id: int
    log_probability: float
    top: tuple[tuple[int, float], ...]
    text: str
    finish: FinishReason | None


class Generation:
    """One text on its way. Hand it the model's log-probabilities, and it says what comes.

    Attributes:
        banned: tokens that are never chosen.
    """

    def __init__(self, spec: GenerationSpec, tokenizer: Tokenizer, prompt: Sequence[int], max_tokens: int) -> None:
        """Continue `prompt` by at most `max_tokens` tokens."""
        self.spec = spec
        self.max_tokens = max_tokens
        self._ends = tokenizer.special.ends
        self.banned = tokenizer.special.placeholders if spec.no_placeholders else ()
        self._left = max_tokens
        self._draws = np.random.default_rng(spec.seed)
        self._decoder = tokenizer.decoder(prompt)
        self._stops = _StopFilter(spec.stop)

    def advance(self, log_probabilities: npt.NDArray[np.float64]) -> Step:
        """Choose the next token by the model's `log_probabilities`, [vocabulary]."""
        if self.spec.temperature not in {0.0, 1.0}:
            log_probabilities = log_probabilities / self.spec.temperature
            # The largest becomes 0, so no exponential overflows. (`np.logaddexp.reduce` takes thirty times as long.)
            log_probabilities -= log_probabilities.max()
            log_probabilities -= np.log(np.exp(log_probabilities).sum())
        token_id = self._choose(log_probabilities)
        top = _top_tokens(log_probabilities, self.spec.top_k)
        return self.append(token_id, float(log_probabilities[token_id]), top)

    def append(
        self, token_id: int, log_probability: float, top: tuple[tuple[int, float], ...], *, ended: bool = False
    ) -> Step:
        """Take a token that was chosen, and say what it brings.

        Args:
            top: the most likely tokens at its position.
            ended: whether the text ends with it, whatever it is.
        """
        self._left -= 1
        ended |= token_id in self._ends
        text, stopped = self._stops.push("" if ended else self._decoder.push(token_id))
        finish = None
        if not stopped and (ended or self._left == 0):
            finish = FinishReason.END_OF_TEXT if ended else FinishReason.LENGTH
            last, stopped = self._stops.push(self._decoder.rest())
            text += last + self._stops.flush()
        if stopped:
            finish = FinishReason.STOP
        return Step(token_id, log_probability, top, text, finish)

    def _choose(self, log_probabilities: npt.NDArray[np.float64]) -> int:
        if self.banned:
            log_probabilities = log_probabilities.copy()
            log_probabilities[list(self.banned)] = -np.inf
        if self.spec.temperature == 0:
            return int(log_probabilities.argmax())
        probabilities = np.exp(log_probabilities)
        kept = nucleus(probabilities, self.spec.top_p) if self.spec.top_p < 1 else None
        cumulative = np.cumsum(probabilities if kept is None else probabilities[kept])
        drawn = int(np.searchsorted(cumulative, self._draws.random() * cumulative[-1], side="right"))
        drawn = min(drawn, len(cumulative) - 1)
        return drawn if kept is None else int(kept[drawn])


def nucleus(probabilities: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """The most likely tokens, in order, up to the one that first reaches `top_p` of the mass; it belongs to them."""
    wanted = top_p * probabilities.sum()
    some = _FIRST_NUCLEUS
    while True:  # most nuclei are small, and to order a whole vocabulary takes longer than a small model's step
        some = min(some, len(probabilities))
        likely = np.argpartition(-probabilities, some - 1)[:some]
        likely = likely[np.lexsort((likely, -probabilities[likely]))]
        cumulative = np.cumsum(probabilities[likely])
        if cumulative[-1] > wanted or some == len(probabilities):
            return likely[: int(np.searchsorted(cumulative, wanted)) + 1]
        some *= 8


def _top_tokens(log_probabilities: npt.NDArray[np.float64], count: int) -> tuple[tuple[int, float], ...]:
    if not count:
        return ()
    count = min(count, len(log_probabilities))
    some = np.argpartition(-log_probabilities, count - 1)[:count]
    ranked = some[np.lexsort((some, -log_probabilities[some]))]
    return tuple((int(i), float(log_probabilities[i])) for i in ranked)


class _StopFilter:
    """Passes text on, up to the first stop text and without the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What can be passed on, and whether a stop text has come."""
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """What was held back, once nothing more can come."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
