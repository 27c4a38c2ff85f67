"""What loading a model takes that an installation for served models does not have."""

from __future__ import annotations

from importlib.util import find_spec

from ml.errors import ModelLoadError


def check_torch() -> None:
    """Make sure that this process can compute a model by itself.

    Raises:
        ModelLoadError: torch is not installed; the message says what to do.
    """
    if find_spec("torch") is None:
        raise ModelLoadError(
            "torch is not installed here, so Gloss can only explain models that an external engine serves: set"
            " GLOSS_MODEL=vllm+http://host:8000/NAME, or install the extra serve in place of engine"
        )
