"""What an explanation or a study found, free of torch and of the wire.

Fields have the names that they have in `proto/gloss/v1`, which documents them for users; a field may be None where it
is absent there.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from enum import Enum

from ml.spec import NodeValue, RemovalKind, Scale, Span, SurrogateKind


@dataclass(frozen=True)
class Token:
    """A token in its text.

    Attributes:
        text: as a reader sees it; see `ml.tokens.Tokenizer.token_text`.
        span: None for a token that stands nowhere in the text.
        bytes: what it writes, in UTF-8; see `ml.tokens.Tokenizer.token_bytes`.
    """

    id: int
    text: str
    span: Span | None = None
    bytes: builtins.bytes = b""


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
        children: by their indices among the nodes; empty for a leaf and for what was not looked into.
        hidden: the most that any part of a node that was not looked into is expected to carry.
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


@dataclass(frozen=True)
class ResolvedTarget:
    """The target with nothing left open.

    Attributes:
        prefix_contrast: whether one side of a contrast continues the other. The value is then the log-odds of going on
            with the rest, after `shared_tokens`, and the rest is in `tokens`; or it is their negative where the shorter
            side is the chosen one, and the rest is in `rejected_tokens`.
        skipped_token: the mask or unknown token that was more likely than what the model was let choose, if any.
        tokenized_apart: whether the prompt has other tokens before the target than alone; see `ml.junction.Junction`.
        overlap: the end of the prompt's text with which the target's first token begins.
        text: of `tokens` as it follows the prompt, so without `overlap`; the spans of rows count in it.
    """

    description: str
    tokens: tuple[Token, ...]
    scale: Scale
    rejected_tokens: tuple[Token, ...] = ()
    shared_tokens: tuple[Token, ...] = ()
    prefix_contrast: bool = False
    skipped_token: Token | None = None
    tokenized_apart: bool = False
    overlap: str = ""
    text: str = ""


@dataclass(frozen=True)
class ResolvedRemoval:
    """The removal with nothing left open."""

    kind: RemovalKind
    replacement: str = ""


@dataclass(frozen=True)
class TreeNode:
    """A node of a decision tree. A leaf has neither a feature nor children, which are indices of nodes."""

    value: float
    samples: int
    feature: int | None = None
    absent: int | None = None
    present: int | None = None


@dataclass(frozen=True)
class WordCoefficient:
    """A word's weight in a surrogate over many prompts; the standard error is None where it is not known."""

    word: str
    coefficient: float
    standard_error: float | None = 0.0


@dataclass(frozen=True)
class SurrogateFit:
    """A fitted interpretable model: a linear one has an intercept, a tree has nodes, the root first."""

    kind: SurrogateKind
    r_squared: float
    intercept: float | None = None
    nodes: tuple[TreeNode, ...] = ()


@dataclass(frozen=True)
class GlobalSurrogateResult:
    """A surrogate of the model over many prompts, whose tree asks about `coefficients` by their index."""

    surrogate: SurrogateFit
    held_out_r_squared: float
    coefficients: tuple[WordCoefficient, ...]
    coefficient_unit: AttributionUnit
    fitted_prompts: int
    held_out_prompts: int


@dataclass(frozen=True)
class GroupDifference:
    """The mean of value(first) − value(second) over the pairs of a bias probe; of one pair it has no error."""

    first: str
    second: str
    difference: float
    pairs: int
    standard_error: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class BiasProbeResult:
    """What every two groups differ by."""

    differences: tuple[GroupDifference, ...]


@dataclass(frozen=True)
class ControlledMetric:
    """A metric beside its mean and standard deviation over random rankings."""

    value: float
    random: float
    random_deviation: float


@dataclass(frozen=True)
class ControlledCurve:
    """A metric at each fraction beside its control, and its mean over the fractions."""

    values: tuple[float, ...]
    random_values: tuple[float, ...]
    aopc: ControlledMetric


@dataclass(frozen=True)
class Faithfulness:
    """How well a ranking by attribution predicts what the model does."""

    fractions: tuple[float, ...]
    comprehensiveness: ControlledCurve
    sufficiency: ControlledCurve
    deletion_auc: ControlledMetric
    insertion_auc: ControlledMetric
    random_rankings: int


class Verdict(Enum):
    """Whether to rely on an explanation."""

    TRUSTED = "trusted"
    CAUTION = "caution"
    NOT_TRUSTED = "not trusted"


@dataclass(frozen=True)
class Trust:
    """The verdict and, where it is not TRUSTED, its reasons, each a sentence."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


class StopReason(Enum):
    """Why an explanation stopped."""

    COMPLETE = "complete"
    EVALUATIONS = "evaluations"
    DURATION = "duration"
    STANDARD_ERROR = "standard error"
    CANCELLED = "cancelled"
    RANKED = "ranked"


class AttributionUnit(Enum):
    """Units of attributions."""

    NAT = "nat"
    PROBABILITY = "probability"
    LOG_ODDS = "log-odds"
    SHARE = "share"
    IMPURITY_SHARE = "impurity share"


@dataclass(frozen=True)
class Cost:
    """What it took. `evaluations` are prompts computed; `cache_hits` those whose value was known already.

    `duration` is in seconds; `price` is that of an engine elsewhere, None where it has none.
    """

    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    cache_hits: int = 0
    duration: float = 0.0
    stop_reason: StopReason | None = None
    price: float | None = None


@dataclass(frozen=True)
class Precision:
    """What the numbers were computed in, and the largest error against float32 seen, where a trial was made.

    `noise` is the standard deviation of one token's log-probability with what an engine elsewhere computes beside.
    """

    dtype: str = "float32"
    measured_error: float | None = None
    noise: float | None = None


class Stage(Enum):
    """What is being done."""

    PREPARING = "preparing"
    CHOOSING_TARGET = "choosing the target"
    EXPLAINING = "explaining"
    MEASURING_FAITHFULNESS = "measuring faithfulness"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    """How far the work is.

    `stage` is None before the work has begun. `remaining_duration` is in seconds: a guess before the first evaluation,
    None where nothing is known.
    `tokens_planned` is the most tokens that the model will read.
    """

    evaluations_done: int
    evaluations_planned: int
    stage: Stage | None = None
    remaining_duration: float | None = None
    tokens_planned: int = 0


@dataclass(frozen=True)
class ExplanationResult:
    """What an explanation found. A partial result may lack `faithfulness` and `trust`, which come last."""

    text: str
    tokens: tuple[Token, ...]
    target: ResolvedTarget
    removal: ResolvedRemoval
    attributions: tuple[Attribution, ...]
    base_value: float
    full_value: float
    attribution_unit: AttributionUnit = AttributionUnit.NAT
    surrogate: SurrogateFit | None = None
    interactions: tuple[Interaction, ...] = ()
    completeness_error: float | None = None
    stability: float | None = None
    outside_share: float | None = None
    faithfulness: Faithfulness | None = None
    converged: bool = False
    trust: Trust | None = None
    cost: Cost = field(default_factory=Cost)
    precision: Precision = field(default_factory=Precision)
    rows: tuple[AttributionRow, ...] = ()
    hierarchy: Hierarchy | None = None


@dataclass(frozen=True)
class StudyResult:
    """What a study found. `finding` is None where there was nothing to tell; a partial result lacks `trust`."""

    target: ResolvedTarget
    finding: GlobalSurrogateResult | BiasProbeResult | None = None
    trust: Trust | None = None
    cost: Cost = field(default_factory=Cost)
    precision: Precision = field(default_factory=Precision)


@dataclass(frozen=True)
class Update:
    """One step of the work: always the progress, and now and then what is known so far."""

    progress: Progress
    result: ExplanationResult | StudyResult | None = None
