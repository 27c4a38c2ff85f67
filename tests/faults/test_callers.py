"""Callers who are to be kept apart: by what they may see, by what time tells, and by what they leave to others."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from gloss import v1 as pb
from tests.faults.report import Measure, Row, keep, percentile
from tests.faults.stack import Stack, wait_for
from tests.faults.traffic import TEXT, Sample, Traffic, timed
from tests.fixtures.keys import Keys
from tests.integration import contract
from tests.integration.explanations import FINAL, lime

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

SERVICE = {method.name: method for method in contract.methods()}
REFERRING = [method for method in contract.methods() if contract.references(method)]
PROMPTS = 60
"""Prompts of which it is guessed by time whether another tenant asked them."""
TOKENS = 100
FLOOD_SECONDS, ROUNDS = 15.0, 3
OVERLOAD = 4.0


@dataclass
class Callers:
    """A server and a worker, and keys of alice, of bob, and of carol and dave, who are one tenant."""

    stack: Stack
    keys: dict[str, str]

    def ask(self, who: str, method: str, **fields: Any) -> Any:
        """The reply to a call with somebody's key."""
        kind = SERVICE[method]
        return contract.ask(self.stack.channel, kind, contract.request_of(kind, **fields), self.keys[who])

    def code(self, who: str, method: str, **fields: Any) -> grpc.StatusCode:
        """How a call with somebody's key ends."""
        return timed(lambda: self.ask(who, method, **fields)).code

    def seconds(self, who: str, ids: list[int]) -> float:
        """How long a NextToken takes."""
        prompt = pb.Prompt(token_ids=pb.TokenIds(ids=ids))
        return timed(lambda: self.ask(who, "NextToken", prompts=[prompt], top_k=1)).seconds

    def explain(self, who: str, spec: pb.ExplanationSpec) -> pb.Explanation:
        """An explanation of somebody's, once it has ended."""
        name = self.ask(who, "CreateExplanation", spec=spec).name
        wait_for(lambda: self.ask(who, "GetExplanation", name=name).state in FINAL, timeout=60)
        return self.ask(who, "GetExplanation", name=name)


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    folder = tmp_path_factory.mktemp("callers")
    keys = Keys(folder / "keys")
    made = {name: keys(name) for name in ("alice", "bob")}
    made |= {name: keys(name, "--tenant", "team") for name in ("carol", "dave")}
    with Stack(folder) as stack:
        stack.start_worker()
        stack.start_server(GLOSS_API_KEYS_FILE=str(keys.path))
        yield Callers(stack, made)


def test_nothing_of_others_is_seen(callers: Callers) -> None:
    spec = lime(30, text="What alice asks is nobody's business but hers.")
    ended = callers.ask("alice", "CreateExplanation", spec=spec, request_id="one").name
    wait_for(lambda: callers.ask("alice", "GetExplanation", name=ended).state in FINAL)
    running = callers.ask("alice", "CreateExplanation", spec=lime(1_000_000)).name
    queued = callers.ask("alice", "CreateExplanation", spec=lime(31)).name
    tried, seen = 0, []

    def check(what: str, *, kept_apart: bool) -> None:
        nonlocal tried
        tried += 1
        if not kept_apart:
            seen.append(what)

    for stranger in ("bob", "carol"):
        for name in (ended, running, queued):
            for method in REFERRING:
                [field] = contract.references(method)
                code = callers.code(stranger, method.name, **{field.name: name})
                check(f"{method.name} of {name}: {code}", kept_apart=code is grpc.StatusCode.NOT_FOUND)
        for state in pb.ExplanationState.values():
            page = callers.ask(stranger, "ListExplanations", state=state)
            hers = {ended, running, queued} & {each.name for each in page.explanations}
            check(f"a list has {hers}", kept_apart=not hers)
        own = callers.ask(stranger, "CreateExplanation", spec=spec, request_id="one")
        check("an equal spec and request id are shared", kept_apart=own.name != ended)
        other = callers.ask(stranger, "CreateExplanation", spec=spec)
        check("an equal spec is shared", kept_apart=other.name not in {ended, running, queued})
    token = callers.ask("alice", "ListExplanations", page_size=1).next_page_token
    check("a page token is good for others", kept_apart=callers.code("bob", "ListExplanations", page_token=token)
          is grpc.StatusCode.INVALID_ARGUMENT)  # fmt: skip
    check("alice cannot see her own", kept_apart=callers.code("alice", "GetExplanation", name=ended).name == "OK")
    callers.ask("alice", "CancelExplanation", name=running)
    keep(
        Row(
            "another tenant's key: all methods that name an explanation, lists, request ids, equal specs, page tokens",
            f"{tried} tries to see, change or share what is another tenant's",
            len(seen),
        )
    )
    assert not seen


def distinguishable(some: list[float], others: list[float]) -> float:
    """How often a guess by time is right which of two is which; 0.5 is chance."""
    faster = np.asarray(some)[:, None] < np.asarray(others)[None, :]
    return float(faster.mean())


def test_time_does_not_tell_what_others_asked(callers: Callers) -> None:
    draw = np.random.default_rng(0)
    prompts = [draw.integers(2, 5000, TOKENS).tolist() for _ in range(2 * PROMPTS + 8)]
    hers, fresh, others = prompts[:PROMPTS], prompts[PROMPTS:-8], prompts[-8:]
    for ids in others:
        callers.seconds("dave", ids)  # whatever is slow at first
    for ids in hers:
        callers.seconds("alice", ids)
    of_hers, of_fresh = [], []
    for one, another in zip(hers, fresh, strict=True):
        of_hers.append(callers.seconds("bob", one))
        of_fresh.append(callers.seconds("bob", another))
    control = [callers.seconds("alice", ids) for ids in hers]
    by_prefix = distinguishable(of_hers, of_fresh)
    cached = sum(
        callers.ask(
            "carol", "NextToken", prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=ids))], top_k=1
        ).usage.cached_tokens
        for ids in hers
    )
    spec = lime(60, text="The value of what alice asks of a model is hers alone, and is not told to anybody else.")
    first, second = (callers.explain(who, spec).result.cost for who in ("alice", "bob"))
    shared = second.cache_hits > first.cache_hits
    keep(
        Row(
            "what the time of answers reveals of another tenant's questions",
            f"{PROMPTS} prompts of {TOKENS} tokens that another tenant had asked beside {PROMPTS} fresh ones; "
            "an explanation of another tenant's values",
            int(cached > 0) + int(shared),
            [
                Measure("right guesses by time (chance: 0.5)", by_prefix, "", 0.65),
                Measure("right guesses of one's own", distinguishable(control, of_fresh)),
                Measure("cached tokens of others", cached, "", 0),
                Measure("cached values of others", second.cache_hits - first.cache_hits, "", 0),
            ],
        )
    )
    assert cached == 0
    assert not shared


def flood(callers: Callers, who: str, seconds: float, rate: float = 0.0, seed: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.faults.flood", callers.stack.address, "--key", callers.keys[who]]
    options = {"--rate": rate, "--seconds": seconds, "--vocabulary": 5000, "--seed": seed}
    words = [str(word) for pair in options.items() for word in pair]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def came_of(process: subprocess.Popen[str]) -> dict[str, float]:
    found, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(found)


def test_a_greedy_tenant_takes_nothing_from_a_modest_one(callers: Callers) -> None:
    request = pb.NextTokenRequest(prompts=[pb.Prompt(text=TEXT)])
    metadata = [("authorization", f"Bearer {callers.keys['bob']}")]

    def ask() -> pb.NextTokenResponse:
        return callers.stack.inference.NextToken(request, metadata=metadata, timeout=30)

    capacity = came_of(flood(callers, "alice", 5, seed=1))["answered_per_second"]
    alone: list[Sample] = []
    beside: list[Sample] = []
    codes: Counter[str] = Counter()
    for number in range(ROUNDS):  # by turns: whatever else the machine does concerns both
        with Traffic(ask, 0.02) as traffic:
            time.sleep(FLOOD_SECONDS / ROUNDS)
        alone += traffic.samples
        greedy = flood(callers, "alice", FLOOD_SECONDS / ROUNDS + 4, OVERLOAD * capacity, seed=2 + number)
        time.sleep(2.5)  # it has started
        with Traffic(ask, 0.02) as traffic:
            time.sleep(1)  # who comes after a while waits for a whole batch of others, once
            began = time.monotonic()
            time.sleep(FLOOD_SECONDS / ROUNDS)
        beside += traffic.since(began)
        codes.update({code: int(count) for code, count in came_of(greedy).items() if code.isupper()})
    refused = [sample for sample in beside if not sample.ok]
    p50, p99 = (
        [percentile([sample.seconds for sample in one if sample.ok], rank) for one in (alone, beside)]
        for rank in (50, 99)
    )
    counted = ", ".join(f"{code} {number:,}" for code, number in sorted(codes.items()))
    keep(
        Row(
            f"a greedy tenant asks {OVERLOAD:g} times what the server can answer, beside a modest one",
            f"{capacity:.0f} prompts a second are what it can; greedy: {counted}; "
            f"modest: {len(beside)} calls, {len(alone)} alone",
            len(refused),
            [
                Measure("modest one's p50, alone", 1e3 * p50[0], "ms"),
                Measure("modest one's p50, times alone", p50[1] / p50[0]),
                Measure("modest one's p99, alone", 1e3 * p99[0], "ms"),
                Measure("modest one's p99, times alone", p99[1] / p99[0], "", 2.0),
            ],
        )
    )
    assert not refused, refused
    assert set(codes) <= {"OK", "RESOURCE_EXHAUSTED"}
    assert p99[1] < 5
