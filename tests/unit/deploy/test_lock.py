"""The lock file of dependencies."""

from deploy.lock import LOCK, canonical, render


def test_pins_are_plain_versions_in_order() -> None:
    text = render({"torch": "2.13.0+cpu", "a-package": "1.0", "gloss": "0.1.0", "nvidia-cublas": "13.0", "triton": "3"})
    assert text.splitlines()[-2:] == ["a-package==1.0", "torch==2.13.0"]


def test_names_are_canonical() -> None:
    assert canonical("Huggingface_Hub") == "huggingface-hub"


def test_the_committed_lock_is_one_that_this_would_write() -> None:
    lines = LOCK.read_text().splitlines(keepends=True)
    pins = dict(line.strip().split("==") for line in lines if not line.startswith("#"))
    assert render(pins) == "".join(lines)
