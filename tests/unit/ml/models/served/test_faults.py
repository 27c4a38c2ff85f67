"""Engines that misbehave: never a wrong number, and no failure that patience would have mended."""

from __future__ import annotations

import gzip
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest

from ml.errors import EngineError, EngineUnavailableError
from ml.models.served.exchange import Exchange
from ml.models.served.model import ServedModel, open_model
from ml.models.served.options import EngineOptions
from tests.fixtures.engine import Fault, TestEngine
from tests.fixtures.models import byte_level
from tests.fixtures.served import LocalModel, SmallModel
from tests.unit.ml.models.served.answers import PROMPTS, changed, null, values


def drop_last(data: Any) -> None:
    data["choices"].pop()


def repeat_first(data: Any) -> None:
    data["choices"][-1] = data["choices"][0]


def without_log_probability(data: Any) -> None:
    data["choices"][0]["logprobs"]["top_logprobs"][0].pop("token_id:7", None)


def of_value(value: Any) -> Callable[[Any], None]:
    def make(data: Any) -> None:
        data["choices"][0]["logprobs"]["top_logprobs"][0] = {"token_id:7": value, "token_id:0": value}

    return make


def of_another_model(data: Any) -> None:
    data["model"] = "other"


UNUSABLE = {
    "an answer is missing": drop_last,
    "one comes twice": repeat_first,
    "a log-probability is missing": without_log_probability,
    "one is not a number": of_value(math.nan),
    "one is infinite": of_value(math.inf),
    "one is that of no probability": of_value(0.7),
    "one is a truth": of_value(True),
    "one is a word": of_value("-0.5"),
    "all are null": null,
    "it is from another model": of_another_model,
}


def counted(tokens: Any) -> Callable[[Any], None]:
    def make(data: Any) -> None:
        data["usage"]["prompt_tokens"] = tokens

    return make


RETRY_AFTER = {
    "seconds": "0.05",
    "a date": format_datetime(datetime.now(UTC), usegmt=True),
    "a date without a zone": "Thu, 01 Jan 1970 00:00:00 -0000",
    "no number": "nan",
    "no time": "soon",
    "a time that is over": "-5",
}

CHUNKED = {"Transfer-Encoding": "chunked"}
TWICE = re.compile(rb'("token_id:7": -[0-9.]+)')

PASSING = {
    "overloaded": Fault(status=429),
    **{f"overloaded for {name}": Fault(429, {"Retry-After": value}) for name, value in RETRY_AFTER.items()},
    "unavailable": Fault(status=503),
    "broken": Fault(status=500),
    "behind a proxy that gives up": Fault(status=504),
    "gone in mid-request": Fault(hang_up=True),
    "gone in mid-answer": Fault(content=lambda found: [found[:-20]], headers={"Content-Length": "9999"}),
    "cut short": Fault(content=lambda found: [found[: len(found) // 2]]),
    "empty": Fault(content=lambda _: []),
    "a page": Fault(content=lambda _: [b"<html>Welcome</html>"]),
    "nested without end": Fault(content=lambda _: [b"[" * 200_000]),
    "compressed, it says": Fault(content=lambda found: [found], headers={"Content-Encoding": "gzip"}),
    "a bomb": Fault(content=lambda _: [gzip.compress(bytes(2**22))], headers={"Content-Encoding": "gzip"}),
    "an error that says it is none": Fault(change=lambda _: {"error": {"message": "out of memory", "code": 500}}),
    "an answer beside an error": Fault(change=lambda data: {**data, "error": "out of memory"}),
    "with two numbers for one token": Fault(content=lambda found: [TWICE.sub(rb"\1, \1", found)]),
    "in chunks that are none": Fault(
        content=lambda found: [b"zz\r\n", found], headers={"Transfer-Encoding": "chunked"}
    ),
    "with an answer more": Fault(
        change=changed(lambda data: data["choices"].append({**data["choices"][0], "index": 999}))
    ),
    "of another alphabet": Fault(content=lambda found: [b"\xff\xfe\xfd", found]),
    "counted without end": Fault(change=changed(counted(math.inf))),
    **{name: Fault(change=changed(change)) for name, change in UNUSABLE.items()},
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_costs_time_and_nothing_else(
    name: str, served_model: ServedModel, local_model: LocalModel, engine: TestEngine
) -> None:
    engine.faults = [PASSING[name], PASSING[name]]
    np.testing.assert_allclose(values(served_model), values(local_model), atol=1e-5)
    assert not engine.faults


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_does_not_pass_is_an_error_and_never_a_number(
    name: str, served_model: ServedModel, engine: TestEngine
) -> None:
    engine.faults = [Fault(change=changed(UNUSABLE[name])) for _ in range(200)]
    with pytest.raises(EngineError, match="of no use"):
        values(served_model)


@pytest.mark.parametrize("count", [-5, None, 0])
def test_what_an_engine_counts_wrong_changes_no_answer(
    count: Any, served_model: ServedModel, local_model: LocalModel, engine: TestEngine
) -> None:
    engine.faults = [Fault(change=changed(counted(count))) for _ in range(3)]
    np.testing.assert_allclose(values(served_model), values(local_model), atol=1e-5)


@pytest.mark.parametrize("part", [b" ", b"[", b"{},", b"0,", b'"'])
def test_an_answer_without_end_is_left_before_it_fills_the_memory(
    part: bytes, served_model: ServedModel, local_model: LocalModel, engine: TestEngine
) -> None:
    sent = 0

    def endless(_: bytes) -> Iterator[bytes]:
        nonlocal sent
        yield b'{"choices": ['
        while True:
            yield part * 2**14
            sent += len(part) * 2**14

    engine.faults = [Fault(content=endless)]
    np.testing.assert_allclose(values(served_model), values(local_model), atol=1e-5)
    assert sent < 2**24


SENT = {
    "as HTTP/1.0 has it": {"Connection": "close"},
    "as no JSON": {"Content-Type": "text/html"},
    "as bytes": {"Content-Type": "application/octet-stream"},
    "as it is": {"Content-Encoding": "identity"},
}


@pytest.mark.parametrize("name", SENT)
def test_an_answer_is_read_whatever_it_is_said_to_be(
    name: str, served_model: ServedModel, local_model: LocalModel, engine: TestEngine
) -> None:
    engine.protocol = "HTTP/1.0" if "1.0" in name else "HTTP/1.1"
    engine.faults = [Fault(content=lambda found: [found], headers=SENT[name]) for _ in range(3)]
    np.testing.assert_allclose(values(served_model), values(local_model), atol=1e-5)
    assert not engine.faults


def test_no_answer_that_was_asked_for_is_too_long(engine: TestEngine) -> None:
    """Not even those that list as many tokens as an engine lists, of each of a prompt."""
    engine.max_logprobs = 300
    model = open_model(engine.address, EngineOptions())
    assert model.info.max_top_k == 300
    model.close()


def test_an_answer_in_drops_is_left(served_model: ServedModel, engine: TestEngine) -> None:
    stop = threading.Event()

    def drops(found: bytes) -> Iterator[bytes]:
        while not stop.wait(0.05):
            yield b" "

    model = ServedModel(replace(served_model.found, options=EngineOptions(timeout=0.5, patience=0.0)))
    engine.faults = [Fault(content=drops) for _ in range(100)]
    with pytest.raises(EngineUnavailableError, match="too long"):
        values(model)
    stop.set()
    model.close()


def test_patience_is_with_failures_and_not_with_what_takes_long(served_model: ServedModel, engine: TestEngine) -> None:
    def observe(each: Exchange) -> None:
        if each.outcome == "away":
            engine.hold.set()

    options = EngineOptions(timeout=1.0, patience=0.5)
    model = ServedModel(replace(served_model.found, options=options), observe)
    engine.hold.clear()
    np.testing.assert_allclose(values(model, PROMPTS[:3]), values(served_model, PROMPTS[:3]), atol=1e-5)
    model.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_refused_and_the_key_is_sent_nowhere(
    status: int, served_model: ServedModel, engine: TestEngine, small_model: SmallModel
) -> None:
    other = TestEngine(byte_level(unknown="<unk>"), small_model, origin=engine.origin)
    engine.faults = [Fault(status, {"Location": f"{other.url}/v1/completions"}) for _ in range(20)]
    model = ServedModel(replace(served_model.found, options=EngineOptions(key="secret", patience=0.0)))
    with pytest.raises(EngineError, match=f"elsewhere .{status}.; name that address"):
        values(model)
    assert not other.asked
    model.close()
    other.close()


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_in_mid_job_is_not_sent_again_and_again(
    status: int, served_model: ServedModel, engine: TestEngine
) -> None:
    engine.faults = [Fault(status) for _ in range(100)]
    with pytest.raises(EngineError, match=f"refuses the key in GLOSS_ENGINE_KEY .{status}."):
        values(served_model)
    assert len(engine.faults) > 90


def test_answers_in_another_order(served_model: ServedModel, local_model: LocalModel, engine: TestEngine) -> None:
    engine.faults = [Fault(change=changed(lambda data: data["choices"].reverse())) for _ in range(200)]
    np.testing.assert_allclose(values(served_model), values(local_model), atol=1e-5)


def test_an_engine_that_stays_away(engine: TestEngine) -> None:
    model = open_model(engine.address, EngineOptions(patience=0.3))
    engine.faults = [Fault(status=503) for _ in range(1000)]
    began = time.monotonic()
    with pytest.raises(EngineUnavailableError, match="503"):
        values(model)
    assert time.monotonic() - began < 5
    model.close()


def test_a_pause_longer_than_patience_is_not_waited_for(engine: TestEngine) -> None:
    model = open_model(engine.address, EngineOptions(patience=5.0))
    engine.faults = [Fault(status=429, headers={"Retry-After": "3600"}) for _ in range(100)]
    began = time.monotonic()
    with pytest.raises(EngineUnavailableError) as caught:
        values(model)
    assert time.monotonic() - began < 4
    assert caught.value.retry_seconds > 3000
    model.close()


def test_a_pause_as_long_as_patience_is_waited_for_by_all_requests(
    served_model: ServedModel, local_model: LocalModel, engine: TestEngine
) -> None:
    """As a minute is by default, after which many limits of rates are over."""
    model = ServedModel(replace(served_model.found, options=EngineOptions(patience=1.0)))
    engine.faults = [Fault(status=429, headers={"Retry-After": "1"}) for _ in range(2)]
    np.testing.assert_allclose(values(model), values(local_model), atol=1e-5)
    assert not engine.faults
    model.close()


@pytest.mark.slow
def test_the_pauses_of_one_failure_are_not_the_next_ones(engine: TestEngine, local_model: LocalModel) -> None:
    model = open_model(engine.address, EngineOptions(patience=1.0))
    for _ in range(3):
        engine.faults = [Fault(status=503) for _ in range(1000)]
        with pytest.raises(EngineUnavailableError):
            values(model)
        engine.faults = []
        np.testing.assert_allclose(values(model), values(local_model), atol=1e-5)
    model.close()


@pytest.mark.parametrize("asked", ["inf", "1e300", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_no_engine_is_left_alone_for_good(asked: str, engine: TestEngine) -> None:
    model = open_model(engine.address, EngineOptions(patience=5.0))
    engine.faults = [Fault(429, {"Retry-After": asked}) for _ in range(100)]
    with pytest.raises(EngineUnavailableError) as caught:
        values(model)
    assert caught.value.retry_seconds <= 3600
    model.close()


def test_errors_name_the_model_and_not_its_address(engine: TestEngine) -> None:
    model = open_model(engine.address, EngineOptions(patience=0.0))
    engine.close()
    with pytest.raises(EngineUnavailableError, match="'tiny'") as caught:
        values(model)
    assert "127.0.0.1" not in str(caught.value)
    model.close()


def test_requests_are_counted_by_how_they_ended(engine: TestEngine) -> None:
    seen: list[Exchange] = []
    model = open_model(engine.address, EngineOptions(), seen.append)
    engine.faults = [Fault(status=429), Fault(status=500), Fault(hang_up=True), Fault(change=changed(null))]
    values(model)
    assert {each.outcome for each in seen} == {"ok", "overloaded", "failed", "away", "unusable"}
    assert sum(each.prompt_tokens for each in seen if each.outcome == "ok") >= 3 * len(PROMPTS)
    model.close()


def test_a_slow_answer_is_given_up(engine: TestEngine) -> None:
    model = open_model(engine.address, EngineOptions(timeout=0.5, patience=0.1))
    engine.hold.clear()
    with pytest.raises(EngineUnavailableError, match="too long"):
        values(model)
    engine.hold.set()
    model.close()
