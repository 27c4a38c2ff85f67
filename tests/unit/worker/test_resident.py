"""RQ's work loop around a child that does what the test says."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rq.exceptions import StopRequested

from gloss import v1 as pb
from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.outage import Outage
from jobs.store import ExplanationStore
from worker import stop as stop_module
from worker.loading import load
from worker.metrics import Metrics
from worker.model_process import ChildLostError, ModelProcess, ModelRefusedError
from worker.resident import ResidentWorker
from worker.stop import ForcedStop, Stop

MODEL = pb.ModelVersion(name="tiny", digest="d" * 64)
OUTAGE = Outage(logging.getLogger("test"))
SPEC = pb.ExplanationSpec(prompt=pb.Prompt(text="one two"), lime=pb.Lime())


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def store(client):
    return ExplanationStore(client)


@pytest.fixture
def spawn(redis_url):
    children = []

    def spawn(behaviour: str) -> ModelProcess:
        children.append(ModelProcess(["tests.unit.worker.scripted_child", behaviour, redis_url]))
        return children[-1]

    yield spawn
    for child in children:
        child.stop()
        assert not child.alive


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    stop = Stop(grace_seconds=0.1)
    stop.install()
    yield stop
    stop.uninstall()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def worker(client, spawn, stop):
    """A worker with a child of some behaviour, ready to work."""

    def make(behaviour: str) -> ResidentWorker:
        child = spawn(behaviour)
        child.start()
        queue, metrics = names.queue("tiny"), Metrics()
        attempts = AttemptStore(client, max_attempts=3)
        return ResidentWorker(
            queue, client, name="w1", store=attempts, child=child, metrics=metrics, stop=stop, outage=OUTAGE
        )

    return make


def sample(worker: ResidentWorker, series: str, **labels: str) -> float:
    return worker._metrics.registry.get_sample_value(series, labels) or 0.0


def during(name: str, store: ExplanationStore, act) -> threading.Thread:
    """Act in a thread of its own, once the explanation runs."""

    def wait_and_act() -> None:
        while store.get(name).state != pb.EXPLANATION_STATE_RUNNING:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


def test_performs_job_after_job(worker, store, client):
    created = [store.create(SPEC, MODEL, fresh=True).name for _ in range(5)]
    resident = worker("succeed")
    resident.work(burst=True)
    for name in created:
        explanation = store.get(name)
        assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED
        assert explanation.attempt == 1
    assert not client.keys("rq:job:*")
    assert not client.keys("rq:exec*")
    assert sample(resident, "gloss_jobs_total", method="lime", outcome="succeeded") == 5
    assert sample(resident, "gloss_model_evaluations_total", method="lime") == 50
    assert sample(resident, "gloss_job_tokens_total", kind="computed") == 100
    assert sample(resident, "gloss_job_tokens_total", kind="saved") == 150
    assert sample(resident, "gloss_jobs_running") == 0
    assert sample(resident, "gloss_job_waiting_seconds_count") == 5


@pytest.mark.parametrize("behaviour", ["give way", "die giving way"])
def test_one_that_gives_way_goes_on_after_the_others(worker, store, client, behaviour):
    created = [store.create(SPEC, MODEL, fresh=True).name for _ in range(3)]
    resident = worker(behaviour)
    resident.work(burst=True)
    explanations = [store.get(name) for name in created]
    for explanation in explanations:
        assert explanation.state == pb.EXPLANATION_STATE_SUCCEEDED
        assert explanation.attempt == 1
        assert client.hget(names.record(explanation.name.removeprefix("explanations/")), "lost") == b"0"
    ends = [explanation.end_time.ToMilliseconds() for explanation in explanations]
    assert ends == sorted(ends)
    assert not client.keys("rq:job:*")
    assert not client.keys("rq:exec*")
    assert sample(resident, "gloss_job_yields_total", method="lime") == (3 if behaviour == "give way" else 0)
    assert sample(resident, "gloss_jobs_total", method="lime", outcome="succeeded") == 3
    assert sample(resident, "gloss_jobs_total", method="lime", outcome="yielded") == 0
    assert sample(resident, "gloss_jobs_running") == 0


def test_a_job_that_kills_its_child_fails_after_three(worker, store, client):
    name = store.create(SPEC, MODEL).name
    resident = worker("die")
    resident.work(burst=True)
    explanation = store.get(name)
    assert explanation.state == pb.EXPLANATION_STATE_FAILED
    assert explanation.error.reason == pb.ERROR_REASON_WORKER_LOST
    assert explanation.error.metadata == {"attempts": "3"}
    assert explanation.attempt == 3
    assert sample(resident, "gloss_jobs_total", method="lime", outcome="lost") == 3
    assert sample(resident, "gloss_worker_child_restarts_total") >= 2
    assert not client.keys("rq:job:*")


def test_a_child_that_only_says_it_is_done_is_not_believed(worker, store, client):
    """No explanation may stay RUNNING with nobody on it, and none may come back for ever."""
    name = store.create(SPEC, MODEL).name
    worker("forget").work(burst=True)
    explanation = store.get(name)
    assert explanation.attempt == 3
    assert explanation.error.reason == pb.ERROR_REASON_WORKER_LOST
    assert store.queue_depth("tiny") == 0


def test_an_overtaken_job_is_left_to_the_other(worker, store, client):
    name = store.create(SPEC, MODEL).name
    worker("overtaken").work(burst=True)
    explanation = store.get(name)
    assert explanation.state == pb.EXPLANATION_STATE_RUNNING
    assert explanation.attempt == 2
    assert store.queue_depth("tiny") == 0
    assert not client.keys("rq:wip:*")


def test_a_cancelled_job_frees_its_child(worker, store):
    name = store.create(SPEC, MODEL).name
    resident = worker("long")
    thread = during(name, store, lambda: store.cancel(name))
    started = time.monotonic()
    resident.work(burst=True)
    thread.join()
    assert time.monotonic() - started < 5
    assert store.get(name).state == pb.EXPLANATION_STATE_CANCELLED
    assert sample(resident, "gloss_worker_child_restarts_total") == 0


def test_an_unresponsive_child_is_replaced(worker, store):
    name = store.create(SPEC, MODEL).name
    resident = worker("unresponsive once")
    pid = resident._child.pid
    thread = during(name, store, lambda: store.cancel(name))
    resident.work(burst=True)
    thread.join()
    assert store.get(name).state == pb.EXPLANATION_STATE_CANCELLED
    resident._replace_child()
    assert resident._child.pid != pid


@pytest.mark.parametrize("behaviour", ["long", "unresponsive"])
def test_sigterm_gives_a_job_its_grace_and_puts_it_back(worker, store, behaviour):
    name = store.create(SPEC, MODEL).name
    resident = worker(behaviour)
    thread = during(name, store, lambda: os.kill(os.getpid(), signal.SIGTERM))
    resident.work()
    thread.join()
    explanation = store.get(name)
    assert explanation.state == pb.EXPLANATION_STATE_QUEUED
    assert store.queue_depth("tiny") == 1
    # It is nobody's fault: it does not count as lost.
    assert resident.connection.hget(names.record(name.split("/")[1]), "lost") == b"0"


def test_sigterm_while_idle_is_followed_at_once(worker, client):
    resident = worker("succeed")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    resident.work()
    assert time.monotonic() - started < 1.5
    assert not client.smembers("rq:workers")


def test_a_model_that_is_gone_ends_the_worker(worker, store):
    name = store.create(SPEC, MODEL).name
    resident = worker("die")
    resident._child._arguments[0] = "refuse"
    with pytest.raises(ModelRefusedError, match="no such model"):
        resident.work(burst=True)
    assert store.get(name).state == pb.EXPLANATION_STATE_QUEUED


class TestLoading:
    def test_a_child_that_dies_while_it_loads_is_started_again(self, spawn, stop, caplog):
        metrics = Metrics()
        ready = load(spawn("die loading twice"), metrics, stop)
        assert ready.model == "tiny"
        assert metrics.registry.get_sample_value("gloss_worker_child_restarts_total") == 2
        assert metrics.registry.get_sample_value("gloss_model_load_seconds") == 0.25
        first, second = (record.message for record in caplog.records)
        assert "SIGKILL while loading" in first
        assert float(second.split()[-2]) >= float(first.split()[-2])  # the pauses grow

    def test_so_is_one_that_replaces_another(self, worker, client, store):
        name = store.create(SPEC, MODEL).name
        resident = worker("succeed")
        resident._child._arguments[0] = "die loading twice"
        resident._child.kill()
        resident.work(burst=True)
        assert client.get("loads") == b"3"
        assert store.get(name).state == pb.EXPLANATION_STATE_SUCCEEDED

    def test_a_refused_model_is_not_tried_again(self, spawn, stop):
        with pytest.raises(ModelRefusedError, match="no such model"):
            load(spawn("refuse"), Metrics(), stop)

    def test_stops_between_two_tries(self, spawn, stop, monkeypatch):
        monkeypatch.setattr("worker.loading.pause", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or 60)
        with pytest.raises(StopRequested):
            load(spawn("crash"), Metrics(), stop)


class TestModelProcess:
    @pytest.mark.parametrize(
        ("behaviour", "error", "message"),
        [("refuse", ModelRefusedError, "no such model"), ("crash", ChildLostError, "exit code 3")],
    )
    def test_a_start_that_fails_is_told(self, spawn, behaviour, error, message):
        with pytest.raises(error, match=message):
            spawn(behaviour).start()

    def test_nobody_takes_a_job_from_a_dead_parent(self, spawn):
        child = spawn("succeed")
        assert child.start().model == "tiny"
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ChildLostError):  # noqa: PT012 - whichever notices first
            child.run("0" * 32)
            child.receive(5)
        assert child.exit_status() == "SIGKILL"

    def test_an_idle_child_is_not_interrupted(self, spawn):
        child = spawn("succeed")
        child.start()
        child.interrupt()
        assert not child.unresponsive
        assert child.receive(0.05) is None
        assert child.alive


class TestStop:
    def test_is_noted_outside_and_raised_inside(self, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert not stop.overdue
        with pytest.raises(StopRequested), stop.interrupts():
            pytest.fail("it was asked to stop before")

    def test_interrupts(self, stop):
        with pytest.raises(StopRequested), stop.interrupts():  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    def test_a_second_signal_takes_the_grace_back(self):
        stop = Stop(grace_seconds=1000)
        stop._on_signal(signal.SIGTERM, None)
        assert not stop.overdue
        stop._on_signal(signal.SIGTERM, None)
        assert stop.overdue
        stop.uninstall()

    def test_has_a_last_resort(self, stop, monkeypatch):
        monkeypatch.setattr(stop_module, "_FORCE_SECONDS", 0.05)
        monkeypatch.setattr(stop_module, "_AGAIN_SECONDS", 0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(3):
            with pytest.raises(ForcedStop):
                time.sleep(10)
        stop.uninstall()
        assert stop.forced

    @pytest.mark.skipif(sys.platform != "linux", reason="blocks by a mutex of its C library")
    @pytest.mark.parametrize(
        ("grace_seconds", "signals"), [(0, [signal.SIGTERM]), (1000, [signal.SIGTERM, signal.SIGINT])]
    )
    def test_ends_a_process_that_is_blocked_in_c(self, grace_seconds, signals):
        program = f"""if True:
            from tests.fixtures.blocking import block
            from worker import stop
            stop._END_SECONDS = 0.1
            requested = stop.Stop({grace_seconds})
            requested.install()
            requested.guard()
            print("ready", flush=True)
            block()
        """
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            for number in signals:
                process.send_signal(number)
            _, logged = process.communicate(timeout=30)
        assert process.returncode == 0
        assert logged.count("ended without waiting") == 1
