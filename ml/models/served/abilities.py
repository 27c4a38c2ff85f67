"""What an engine was seen to do when it was first asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class OwnTokens(Enum):
    """By which words of the API an engine gives the log-probabilities of a sequence's own tokens."""

    NONE = "not at all"
    PROMPT_LOGPROBS = "prompt_logprobs"
    ECHO = "echo"


@dataclass(frozen=True)
class Abilities:
    """What may be asked of an engine.

    Attributes:
        given_ids: of how many given tokens it gives the log-probability at the next position; 0 is of none.
        own_tokens: how it gives those of a sequence's own tokens.
        echoed_tokens: the fewest tokens that it generates behind an echo.
        top: how many of the most likely tokens it names by their ids; 0 is none.
        priority: whether a request may stand back behind others.
        salt: whether prefixes can be cached for one caller alone.
        vocabulary_size: ids are smaller than this.
    """

    given_ids: int = 0
    own_tokens: OwnTokens = OwnTokens.NONE
    echoed_tokens: int = 0
    top: int = 0
    priority: bool = False
    salt: bool = False
    vocabulary_size: int = 2**31

    @property
    def explains(self) -> bool:
        """Whether it gives log-probabilities of continuations at all."""
        return self.own_tokens is not OwnTokens.NONE
