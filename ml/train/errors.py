"""What can go wrong in training through no fault of the program.

GlossError
└── TrainingError
    ├── OptionError          an option's value is not allowed, or options contradict each other
    ├── DataError            the data folder is missing or malformed, or its text too short
    ├── DivergedError        the loss is no longer a number; the last good checkpoint is kept
    ├── StorageError         the disk is full or refuses; the last good checkpoint is kept
    ├── ResumeError          the checkpoint does not fit what is to be trained
    └── InterruptedRunError  someone asked the run to stop; the checkpoint is up to date
"""

from __future__ import annotations

from ml.errors import GlossError


class TrainingError(GlossError):
    """Root of the tree. The message says what to do."""


class OptionError(TrainingError):
    """An option's value is not allowed, or options contradict each other."""


class DataError(TrainingError):
    """The data folder is missing or malformed, or its text is too short."""


class DivergedError(TrainingError):
    """The loss is no longer a number. The last good checkpoint is kept."""


class StorageError(TrainingError):
    """The disk is full or refuses. The last good checkpoint is kept."""


class ResumeError(TrainingError):
    """The checkpoint is missing, or does not fit what is to be trained."""


class InterruptedRunError(TrainingError):
    """Someone asked the run to stop. The checkpoint is up to date."""
