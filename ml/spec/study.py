"""What a study is asked: a question about many texts, and not about the features of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from ml.errors import InputError
from ml.spec.budget import Budget, PrecisionPolicy
from ml.spec.checks import Checked, Range, check_text
from ml.spec.method import DEPTH, SurrogateKind, check_depth
from ml.spec.prompt import Prompt
from ml.spec.target import Target

MIN_PROMPTS = 20
"""Different prompts of a global surrogate."""
MAX_TEXTS = 4000
"""Of one study."""
SLOT = "{}"
"""What stands in a template for the word that is swapped."""


@dataclass(frozen=True)
class GlobalSurrogate(Checked):
    """A surrogate over many `prompts`, from which words are present to the value."""

    prompts: tuple[Prompt, ...]
    surrogate: SurrogateKind = SurrogateKind.RIDGE
    held_out: Annotated[float, Range(0, 1, open=True)] = 0.2
    max_depth: Annotated[int | None, DEPTH] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not MIN_PROMPTS <= len(self.prompts) <= MAX_TEXTS:
            raise InputError("prompts", f"send {MIN_PROMPTS} to {MAX_TEXTS} prompts, not {len(self.prompts)}")
        # A copy is no more evidence, and would test a fit on what it knows.
        if (different := len(set(self.prompts))) < MIN_PROMPTS:
            raise InputError("prompts", f"only {different} of them differ; send at least {MIN_PROMPTS} that do")
        if self.surrogate is SurrogateKind.LASSO:
            raise InputError("surrogate", "choose a ridge or a decision tree")
        check_depth(self.surrogate, self.max_depth)


@dataclass(frozen=True)
class SwapSet:
    """Words that stand for one group."""

    label: str
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        for index, word in enumerate(self.words):
            check_text(f"words[{index}]", word)


@dataclass(frozen=True)
class BiasProbe:
    """Differences between `groups` of words in the slot of `templates`."""

    templates: tuple[str, ...]
    groups: tuple[SwapSet, ...]

    def __post_init__(self) -> None:
        if not self.templates:
            raise InputError("templates", f"send at least one text with the slot {SLOT}")
        for index, template in enumerate(self.templates):
            check_text(f"templates[{index}]", template)
            if (slots := template.count(SLOT)) != 1:
                raise InputError(
                    f"templates[{index}]", f"holds the slot {SLOT} {slots} times; it must stand there once"
                )
        if len(self.groups) < 2:
            raise InputError("groups", f"name at least two groups to compare, not {len(self.groups)}")
        labels: set[str] = set()
        for index, group in enumerate(self.groups):
            if not group.label or group.label in labels:
                raise InputError(f"groups[{index}].label", "give each group a label of its own")
            labels.add(group.label)
            if not group.words or len(group.words) != self.words:
                message = f"has {len(group.words)} words and the first group {self.words}"
                raise InputError(f"groups[{index}].words", f"{message}; groups are compared word by word")
        if (texts := len(self.templates) * self.words * len(self.groups)) > MAX_TEXTS:
            message = f"templates and words make {texts} texts, and at most {MAX_TEXTS} fit; send fewer of them"
            raise InputError("templates", message)

    @property
    def words(self) -> int:
        """How many words each group has."""
        return len(self.groups[0].words)

    def texts(self) -> Iterator[tuple[int, str]]:
        """Every text with the index of its template: by template, then by place among the words, then by group."""
        for index, template in enumerate(self.templates):
            for words in zip(*(group.words for group in self.groups), strict=True):
                yield from ((index, template.replace(SLOT, word)) for word in words)


StudyMethod = GlobalSurrogate | BiasProbe


@dataclass(frozen=True)
class StudySpec:
    """One study's task. `model` is for whoever holds several: a study is given the model itself."""

    method: StudyMethod
    model: str = ""
    target: Target = field(default_factory=Target)
    budget: Budget = field(default_factory=Budget)
    precision: PrecisionPolicy = PrecisionPolicy.FLOAT32

    def __post_init__(self) -> None:
        if self.budget.standard_error is not None:
            raise InputError("budget.standard_error", "a study reads all of its texts and samples none; leave it unset")
