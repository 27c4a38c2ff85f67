"""An installation without torch, and a model that wants it."""

import sys
from collections.abc import Callable

import pytest

from ml.errors import ModelLoadError
from ml.models.requirements import check_torch
from server import loading
from server.settings import Settings as ServerSettings
from worker import context
from worker.settings import Settings as WorkerSettings


def load_in_a_server() -> None:
    loading._loaded("transformer", ServerSettings())


def load_in_a_worker() -> None:
    context._loaded(WorkerSettings())


@pytest.mark.parametrize("load", [check_torch, load_in_a_server, load_in_a_worker])
def test_what_is_missing_is_named_with_what_to_do(load: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelLoadError, match=r"torch is not installed here.*extra serve"):
        load()
