"""Names that server and worker agree on."""

import pytest

from jobs import names


def test_ids_sort_by_age():
    ids = [names.new_id() for _ in range(100)]
    ages = [explanation_id[:14] for explanation_id in ids]
    assert ages == sorted(ages)
    assert len(set(ids)) == 100


def test_resource_names_go_both_ways():
    explanation_id = names.new_id()
    assert names.parse_resource(names.resource(explanation_id)) == explanation_id


@pytest.mark.parametrize("name", ["", "explanations/", "explanations/0", "x/" + "0" * 32, "explanations/" + "A" * 32])
def test_foreign_names_are_nobodys(name):
    assert names.parse_resource(name) is None
    assert names.parse_resource(f"explanations/{'0' * 32}\n") is None


def test_keys_hold_id_and_owner_and_sort_by_age():
    owners = ["", names.owner("key:alice"), names.owner("key:bob")]
    keys = [names.key(names.new_id(), owners[number % 3]) for number in range(30)]
    assert [key[:14] for key in sorted(keys)] == [key[:14] for key in keys]
    for key, owner in zip(keys, owners * 10, strict=True):
        assert names.parse_key(key) == (key[:32], owner)
        assert names.resource(key) == f"explanations/{key[:32]}"
        assert all(len(part) == 32 for part in key.split("-"))


@pytest.mark.parametrize("key", ["", "0" * 31, "0" * 32 + "-", "0" * 32 + "-" + "0" * 31, "0" * 32 + "\n", "x" * 32])
def test_what_is_no_key_has_no_parts(key):
    assert names.parse_key(key) is None


def test_queue_names_hold_no_blanks():
    assert names.queue("tiny-llama") == "gloss-tiny-llama"
    assert names.queue("my model\n") == "gloss-my%20model%0A"
