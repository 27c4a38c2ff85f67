"""How long short explanations of one tenant wait beside a long one of another, with one worker.

    python -m benchmarks.fair_jobs [--jobs N] [--every SECONDS] [--slice SECONDS] [--json FILE]

Starts a Redis and a worker of the shipped transformer, gives it an explanation of ten minutes, and then, at a steady
rate, short ones of another tenant. The long one is cancelled at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from benchmarks.machine import processor
from deploy.process import Child
from deploy.redis import RedisServer
from gloss import v1 as pb
from gloss.v1 import ExplanationState as State
from jobs import names
from jobs.access import Access
from jobs.connection import connect
from jobs.store import ExplanationStore

LONG, SHORT = Access("key:long"), Access("key:short")
TEXT = "The capital of France is Paris , and the capital of Italy is Rome . It was a bright cold day in April"
LONG_SECONDS = 600


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100, help="short explanations")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two of them")
    parser.add_argument("--slice", type=float, default=10.0, help="GLOSS_JOB_SLICE_SECONDS")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as redis:
        settings = {"GLOSS_REDIS_URL": redis.url, "GLOSS_WORKER_METRICS_PORT": "0", "GLOSS_DEVICE": "cpu"}
        environment = {**os.environ, **settings, "GLOSS_JOB_SLICE_SECONDS": str(options.slice)}
        worker = Child("worker", [sys.executable, "-m", "worker"], Path(folder) / "log", environment)
        try:
            queue = worker.wait_ready(120)["queue"]
            with connect(redis.url) as client:
                figures = measure(client, queue, options)
        finally:
            worker.kill()
    line = json.dumps({"processor": processor(), "slice": options.slice, **figures})
    print(line)
    if options.json:
        options.json.write_text(f"{line}\n")


def measure(client: Redis, queue: str, options: argparse.Namespace) -> dict[str, float]:
    """Waiting times in seconds, of the short explanations."""
    newest: Any = client.zrange(names.workers(queue), 0, -1)
    [digest, *_] = newest[0].decode().split()
    model = pb.ModelVersion(name=queue.removeprefix("gloss-"), digest=digest)
    store = ExplanationStore(client)
    long = store.create(question(10**6, TEXT, seconds=LONG_SECONDS), model, access=LONG).name
    while store.get(long, access=LONG).state != State.EXPLANATION_STATE_RUNNING:
        time.sleep(0.05)
    created = []
    due = time.monotonic()
    for seed in range(options.jobs):
        time.sleep(max(0.0, due - time.monotonic()))
        created.append(store.create(question(30, f"{TEXT} {seed}"), model, access=SHORT).name)
        due += options.every
    ended: list[pb.Explanation] = []
    while len(ended) < len(created):
        short = [store.get(name, access=SHORT) for name in created]
        ended = [each for each in short if each.state == State.EXPLANATION_STATE_SUCCEEDED]
        time.sleep(0.2)
    waited = [(each.start_time.ToMilliseconds() - each.create_time.ToMilliseconds()) / 1000 for each in ended]
    ran = [(each.end_time.ToMilliseconds() - each.start_time.ToMilliseconds()) / 1000 for each in ended]
    whole = store.cancel(long, access=LONG)
    return {
        "jobs": len(ended),
        "waiting_p50": float(np.percentile(waited, 50)),
        "waiting_p95": float(np.percentile(waited, 95)),
        "waiting_max": max(waited),
        "running_p95": float(np.percentile(ran, 95)),
        "long_attempts": whole.attempt,
        "long_evaluations": whole.progress.evaluations_done,
    }


def question(evaluations: int, text: str, seconds: int = 0) -> pb.ExplanationSpec:
    """A LIME explanation."""
    budget = pb.Budget(max_evaluations=evaluations)
    if seconds:
        budget.max_duration.FromSeconds(seconds)
    return pb.ExplanationSpec(
        prompt=pb.Prompt(text=text), lime=pb.Lime(), budget=budget, quality=pb.Quality(faithfulness=False)
    )


if __name__ == "__main__":
    main()
