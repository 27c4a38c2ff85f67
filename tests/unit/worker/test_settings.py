import pytest
from pydantic import ValidationError

from worker.settings import Settings, complaints


@pytest.mark.parametrize("model", ["a,b", " ", "a,"])
def test_a_worker_of_more_or_less_than_one_model_is_told_what_to_do(model):
    with pytest.raises(ValidationError) as refused:
        Settings(model=model)
    [line] = complaints(refused.value)
    assert line == "GLOSS_MODEL: name one model, because a worker holds one; start a worker for each"
