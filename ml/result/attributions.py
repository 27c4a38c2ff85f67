"""What features do: alone, in pairs, to parts of the target, and as parts of a text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ml.spec import NodeValue, Span


class AttributionUnit(Enum):
    """Units of attributions."""

    NAT = "nat"
    PROBABILITY = "probability"
    LOG_ODDS = "log-odds"
    SHARE = "share"
    IMPURITY_SHARE = "impurity share"


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    lower: float
    upper: float
    level: float = 0.95


@dataclass(frozen=True)
class Attribution:
    """One feature and what it did; `positions` are its tokens' places in the prompt.

    The standard error is 0 where nothing was sampled, and None, as the interval, where too little is known yet.
    """

    text: str
    span: Span
    positions: tuple[int, ...]
    attribution: float
    standard_error: float | None = 0.0
    interval: Interval | None = None


@dataclass(frozen=True)
class AttributionRow:
    """What the features did to one part of the target; numbers of features stand in the order of the attributions.

    Attributes:
        span: in the target's text; None for a token that writes nothing.
        positions: its tokens' places in the target.
        standard_errors: empty where all are 0; infinite where too little is known yet.
        interval_reach: standard errors that a confidence interval reaches to either side.
        interactions: in the order of the result's, where rows of pairs were asked for.
        r_squared: of a surrogate that was fitted to this row.
    """

    text: str
    span: Span | None
    positions: tuple[int, ...]
    base_value: float
    full_value: float
    attributions: tuple[float, ...]
    standard_errors: tuple[float, ...] = ()
    interval_reach: float = 0.0
    interval_level: float = 0.95
    interactions: tuple[float, ...] = ()
    interaction_standard_errors: tuple[float, ...] = ()
    r_squared: float | None = None


@dataclass(frozen=True)
class Interaction:
    """What two features, by their indices among the attributions, do together beyond what each does alone."""

    first: int
    second: int
    value: float
    standard_error: float | None = 0.0


class NodeLevel(Enum):
    """Kinds of parts of a text."""

    TEXT = "text"
    MESSAGE = "message"
    SECTION = "section"
    PARAGRAPH = "paragraph"
    SENTENCE = "sentence"
    WORD = "word"
    TOKEN = "token"  # noqa: S105
    SPAN = "span"
    GROUP = "group"


@dataclass(frozen=True)
class HierarchyNode:
    """A part of a text: `feature_count` features from `first_feature` on, and what they did together.

    Attributes:
        standard_error: 0 where nothing was sampled, None where too little is known yet.
        children: by their indices among the nodes; of a part that was not looked into, features that were measured on
            their own.
        hidden: the most that any other feature of a part that was not looked into is expected to carry.
        in_rest: whether it is among what the hierarchy's `rest_value` is about.
    """

    level: NodeLevel
    span: Span
    first_feature: int
    feature_count: int
    value: float
    standard_error: float | None = 0.0
    looked_into: bool = False
    children: tuple[int, ...] = ()
    hidden: float | None = None
    in_rest: bool = False


@dataclass(frozen=True)
class Hierarchy:
    """The parts of a text, the whole first; `rest_value` is what all that seems to carry little carries together."""

    nodes: tuple[HierarchyNode, ...]
    node_value: NodeValue
    rest_value: float | None = None
