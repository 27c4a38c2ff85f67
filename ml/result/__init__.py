"""What an explanation or a study found, free of torch and of the wire.

Fields have the names that they have in `proto/gloss/v1`, which documents them for users; a field may be None where it
is absent there.
"""

from ml.result.attributions import (
    Attribution,
    AttributionRow,
    AttributionUnit,
    Hierarchy,
    HierarchyNode,
    Interaction,
    Interval,
    NodeLevel,
)
from ml.result.cost import Cost, Precision, StopReason
from ml.result.explanation import ExplanationResult
from ml.result.progress import Progress, Stage, Update
from ml.result.resolved import ResolvedRemoval, ResolvedTarget, SimilarWords, Token
from ml.result.study import BiasProbeResult, GlobalSurrogateResult, GroupDifference, StudyResult, WordCoefficient
from ml.result.surrogate import SurrogateFit, TreeNode
from ml.result.trust import ControlledCurve, ControlledMetric, Faithfulness, Trust, Verdict

__all__ = [
    "Attribution",
    "AttributionRow",
    "AttributionUnit",
    "BiasProbeResult",
    "ControlledCurve",
    "ControlledMetric",
    "Cost",
    "ExplanationResult",
    "Faithfulness",
    "GlobalSurrogateResult",
    "GroupDifference",
    "Hierarchy",
    "HierarchyNode",
    "Interaction",
    "Interval",
    "NodeLevel",
    "Precision",
    "Progress",
    "ResolvedRemoval",
    "ResolvedTarget",
    "SimilarWords",
    "Stage",
    "StopReason",
    "StudyResult",
    "SurrogateFit",
    "Token",
    "TreeNode",
    "Trust",
    "Update",
    "Verdict",
    "WordCoefficient",
]
