"""What a run does, whatever it trains."""

from __future__ import annotations

from dataclasses import dataclass

from ml.train.errors import OptionError
from ml.train.options import check, option
from ml.train.schedule import Shape


@dataclass(frozen=True)
class RunSettings:
    """What a run does beside the model's own settings.

    Raises:
        OptionError: a value is not allowed.
    """

    epochs: int = option("passes over the training text", minimum=1)
    shape: Shape = option(
        "of the learning rate over the run, after --warmup: constant; cosine, to zero; trapezoid, constant and then"
        " linear to zero (--decay); plateau, divided by 4 after each validation without an improvement",
        Shape.TRAPEZOID,
    )
    warmup: int = option("steps in which the learning rate rises from zero", 0, minimum=0)
    decay: float = option("share of the run in which a trapezoid falls to zero", 0.4, minimum=0, maximum=1)
    clip: float = option("largest norm of all gradients together; 0 does not clip", 1.0, minimum=0)
    average: float = option(
        "decay a step of the weights' running mean, which is then what is validated and exported; 1 counts all steps"
        " alike (averaged SGD), 0 is off",
        0.0,
        minimum=0,
        maximum=1,
        fixed=True,
    )
    stall: int = option(
        "with --average: begin the mean after this many validations without an improvement; 0 begins at once",
        0,
        minimum=0,
        fixed=True,
    )
    validations: int = option("per epoch", 1, minimum=1)
    patience: int = option("end after this many validations without an improvement; 0 never does", 0, minimum=0)
    checkpoint_seconds: float = option(
        "seconds between checkpoints, beside the one after every validation", 300.0, minimum=0
    )
    seed: int = option("of everything that is drawn", 0, minimum=0, maximum=2**32 - 1, fixed=True)

    def __post_init__(self) -> None:
        check(self)
        if self.stall and not self.average:
            raise OptionError("--stall does nothing without --average: give both, or neither")
