"""OpenMP's patience, as far as it can be told without a clock."""

import os

import pytest

from ml.spin import wait_patiently


@pytest.mark.parametrize(("before", "after"), [(None, "3000"), ("7", "7")])
def test_a_variable_that_is_set_stands(monkeypatch: pytest.MonkeyPatch, before: str | None, after: str) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if before:
        monkeypatch.setenv("GOMP_SPINCOUNT", before)
    wait_patiently()
    assert os.environ["GOMP_SPINCOUNT"] == after
    monkeypatch.setenv("GOMP_SPINCOUNT", after)  # so that it is undone
