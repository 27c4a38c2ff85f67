"""What the tests of store and worker share: questions, and waiting for their answers."""

import time
from collections.abc import Callable
from typing import TypeVar

import redis

from gloss import v1 as pb
from jobs import names
from jobs.store import ExplanationStore

T = TypeVar("T")

# Fifty words and more: enough for draws that do not repeat, so that long explanations are long.
LONG_TEXT = " ".join(
    [
        "The capital of France is Paris, and the capital of Italy is Rome. In 1969 the first man walked on the moon.",
        "It was a bright cold day in April, and the clocks were striking thirteen. To be, or not to be: that is the",
        "question. Water boils at one hundred degrees.",
    ]
)
FINAL = (pb.EXPLANATION_STATE_SUCCEEDED, pb.EXPLANATION_STATE_FAILED, pb.EXPLANATION_STATE_CANCELLED)


def lime(evaluations: int = 30, *, seed: int = 0, text: str = LONG_TEXT) -> pb.ExplanationSpec:
    """A LIME explanation of so many evaluations, without its quality block."""
    return pb.ExplanationSpec(
        prompt=pb.Prompt(text=text),
        lime=pb.Lime(),
        budget=pb.Budget(max_evaluations=evaluations, seed=seed),
        quality=pb.Quality(faithfulness=False),
    )


def wait_for(condition: Callable[[], T], timeout: float = 20) -> T:
    """What `condition` answers once that is true; a failed test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {timeout} s in vain"
        time.sleep(0.01)
    return answer


def ended(store: ExplanationStore, name: str, timeout: float = 60) -> pb.Explanation:
    """The explanation once it has ended."""
    return wait_for(lambda: e if (e := store.get(name)).state in FINAL else None, timeout)


def under_way(store: ExplanationStore, name: str, evaluations: int = 1, timeout: float = 20) -> pb.Explanation:
    """The explanation once a worker has made some evaluations of it."""

    def look() -> pb.Explanation | None:
        explanation = store.get(name)
        assert explanation.state not in FINAL, f"it has ended before the test could see it run: {explanation}"
        running = explanation.state == pb.EXPLANATION_STATE_RUNNING
        return explanation if running and explanation.progress.evaluations_done >= evaluations else None

    return wait_for(look, timeout)


def model_of(client: redis.Redis, queue: str) -> pb.ModelVersion:
    """The version of the model that a queue's workers say they hold."""
    member = client.zrange(names.workers(queue), 0, -1)[0].decode()
    return pb.ModelVersion(name=queue.removeprefix("gloss-"), digest=member.split()[0])
