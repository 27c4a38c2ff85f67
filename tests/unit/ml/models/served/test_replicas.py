"""Several replicas of one engine, of which some misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ml.errors import EngineModelChangedError
from ml.models.served import stream
from ml.models.served.model import open_model
from ml.models.served.options import EngineOptions
from tests.fixtures.engine import Fault, TestEngine
from tests.fixtures.models import byte_level
from tests.fixtures.served import LONGEST, LocalModel, SmallModel
from tests.unit.ml.models.served.answers import changed, null, values


@pytest.fixture
def replicas(engine: TestEngine, small_model: SmallModel) -> Iterator[tuple[TestEngine, TestEngine]]:
    """Two engines of one model."""
    other = TestEngine(byte_level(unknown="<unk>"), small_model, origin=engine.origin, longest=LONGEST)
    yield engine, other
    other.close()


def test_replicas_share_the_work(replicas: tuple[TestEngine, TestEngine], local_model: LocalModel) -> None:
    one, other = replicas
    model = open_model(f"vllm+{one.url};{other.url}/tiny", EngineOptions())
    for each in replicas:
        each.asked.clear()
    np.testing.assert_allclose(values(model), values(local_model), atol=1e-5)
    assert min(sum(len(body["prompt"]) for body in each.asked) for each in replicas) > 50
    model.close()


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(change=changed(null))], ids=["away", "of no use"])
def test_a_replica_that_gives_no_answers_leaves_its_work_to_the_other(
    replicas: tuple[TestEngine, TestEngine], local_model: LocalModel, fault: Fault
) -> None:
    one, other = replicas
    model = open_model(f"vllm+{one.url};{other.url}/tiny", EngineOptions(patience=5.0))
    one.faults = [fault] * 1000
    np.testing.assert_allclose(values(model), values(local_model), atol=1e-5)
    assert len(one.faults) < 1000
    model.close()


def test_a_replica_that_goes_away_in_mid_job_leaves_its_work_to_the_other(
    replicas: tuple[TestEngine, TestEngine],
    local_model: LocalModel,
    small_model: SmallModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_GONE_SECONDS", 0.2)
    one, other = replicas
    model = open_model(f"vllm+{one.url};{other.url}/tiny", EngineOptions(concurrency=16, patience=30.0))
    one.asked.clear()

    def logits(ids: Any) -> Any:
        if len(one.asked) == 3 and not one.faults:
            one.faults = [Fault(status=503) for _ in range(10_000)]
        return small_model(ids)

    one.logits = logits
    np.testing.assert_allclose(values(model), values(local_model), atol=1e-5)
    assert 0 < len(one.faults) < 10_000
    model.close()


def test_a_replica_with_another_model_is_noticed(replicas: tuple[TestEngine, TestEngine]) -> None:
    one, other = replicas
    model = open_model(f"vllm+{one.url};{other.url}/tiny", EngineOptions())
    other.logits = SmallModel(model.info.vocabulary_size, seed=1)
    with pytest.raises(EngineModelChangedError):
        values(model)
    model.close()
