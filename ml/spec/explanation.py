"""What an explanation of one prompt is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ml.spec.budget import Budget, PrecisionPolicy, Quality
from ml.spec.features import Features, Removal, Rows
from ml.spec.method import Method
from ml.spec.prompt import Prompt
from ml.spec.target import Target


@dataclass(frozen=True)
class ExplanationSpec:
    """One explanation's task. `model` is for whoever holds several: an explanation is given the model itself."""

    prompt: Prompt
    method: Method
    target: Target = field(default_factory=Target)
    features: Features = field(default_factory=Features)
    removal: Removal = field(default_factory=Removal)
    budget: Budget = field(default_factory=Budget)
    quality: Quality = field(default_factory=Quality)
    precision: PrecisionPolicy = PrecisionPolicy.FLOAT32
    rows: Rows | None = None
    model: str = ""
