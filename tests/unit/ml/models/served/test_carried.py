"""Which prompts go with a request."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ml.models.served.abilities import Abilities
from ml.models.served.carried import MAX_CARRIED, carried
from ml.models.served.completions import Query

IDS = range(100, 140)


@given(
    count=st.integers(0, 5),
    tail=st.integers(0, 60),
    able=st.sampled_from([0, 1, 2, 128]),
)
def test_what_is_said_of_them_tells_models_apart(count: int, tail: int, able: int) -> None:
    asked = Query(((1, 2, 3),), given=tuple(range(98, 98 + min(count, able))), tail=tail, salt="salt", stands_back=True)
    if not asked.given and not tail:
        return
    found = carried(asked, IDS, Abilities(given_ids=able))
    assert found.given[: len(asked.given)] == asked.given
    assert len(set(found.given)) == len(found.given) <= max(able, len(asked.given))
    assert replace(found, sequences=asked.sequences, given=asked.given) == asked
    assert len(found.sequences) * (len(found.given) + found.tail) >= MAX_CARRIED >= len(found.sequences)
    assert all(max(8, tail + 1) == len(each) for each in found.sequences)
    assert len(set(found.sequences)) == len(found.sequences)


def test_equal_questions_carry_equal_prompts_whatever_they_are_about() -> None:
    one, other = (Query((ids,), given=(5,), salt="salt") for ids in ((1, 2), (3, 4, 5)))
    assert carried(one, IDS, Abilities(given_ids=128)) == carried(other, IDS, Abilities(given_ids=128))
