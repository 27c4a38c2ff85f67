"""A Redis that refuses, for whatever reason, is a store that is unavailable for a while, and never an incident."""

import grpc
import pytest
import redis

from gloss import v1 as pb
from jobs import names
from jobs.attempts import AttemptStore
from jobs.connection import connect
from jobs.store import ExplanationStore
from server.errors import describe
from tests.integration.explanations import lime, wait_for
from tests.integration.refusals import LINES, REFUSALS, always, closed_port
from tests.integration.serving import Code, Refusal, serve

OF_SOME_CALLS = {kind for kind in REFUSALS if kind.startswith("WRONGTYPE") or kind == "NOPERM in scripts"}
EXPLANATIONS = "gloss.v1.ExplanationService"


@pytest.fixture
def admin(private_redis):
    """A connection with all rights, which no refusal touches."""
    with redis.Redis(unix_socket_path=str(private_redis.socket)) as first:
        first.execute_command("ACL", "SETUSER", "admin", "on", "nopass", "~*", "&*", "+@all")
    with redis.Redis(unix_socket_path=str(private_redis.socket), username="admin", password="any") as admin:  # noqa: S106
        yield admin


@pytest.fixture
def server(private_redis, load_model, tiny_gpt2, admin):
    with serve([tiny_gpt2], redis_url=private_redis.url) as server:
        digest = load_model(tiny_gpt2).info.digest
        AttemptStore(admin).heartbeat(names.queue("tiny-gpt2"), digest, "test-worker", 600)
        wait_for(lambda: server.health(EXPLANATIONS) == "SERVING")
        yield server


def answer(method, request) -> Refusal | None:
    """How a call is refused, None where it is answered."""
    try:
        reply = method(request, timeout=20)
        if not hasattr(reply, "DESCRIPTOR"):
            next(reply)
            reply.cancel()
    except grpc.RpcError as error:
        return Refusal(error)
    return None


def test_every_call_is_unavailable_or_answered(server, private_redis, admin, caplog):
    def calls(seed: int):
        name = made.name
        return {
            "Create": (server.explanations.CreateExplanation, pb.CreateExplanationRequest(spec=lime(seed=seed))),
            "Get": (server.explanations.GetExplanation, pb.GetExplanationRequest(name=name)),
            "List": (server.explanations.ListExplanations, pb.ListExplanationsRequest()),
            "Watch": (server.explanations.WatchExplanation, pb.WatchExplanationRequest(name=name)),
            "Cancel": (server.explanations.CancelExplanation, pb.CancelExplanationRequest(name=name)),
            "Delete": (server.explanations.DeleteExplanation, pb.DeleteExplanationRequest(name=name)),
        }

    for seed, (kind, refusing) in enumerate(REFUSALS.items()):
        made = server.explanations.CreateExplanation(
            pb.CreateExplanationRequest(spec=lime(seed=100 + seed)), timeout=20
        )
        with refusing(private_redis, admin):
            refused = {call: answer(*arguments) for call, arguments in calls(seed).items()}
            for call, refusal in refused.items():
                if refusal is not None:
                    assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE"), (kind, call)
                    assert refusal.retry_seconds, (kind, call)
            assert refused["Create"] is not None, kind
            if kind not in OF_SOME_CALLS:
                wait_for(lambda: server.health(EXPLANATIONS) == "NOT_SERVING")
            assert server.next_token("The capital of France is").predictions
        wait_for(lambda: server.health(EXPLANATIONS) == "SERVING")
        assert answer(*calls(200 + seed)["Create"]) is None, kind
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("line", LINES)
def test_whatever_it_says(line):
    with always(line) as url, connect(url, patient=False) as client:
        store = ExplanationStore(client)
        name = names.resource("0" * 32)
        for call in (
            lambda: store.create(lime(), pb.ModelVersion(name="m", digest="d")),
            lambda: store.get(name),
            store.list,
            lambda: store.cancel(name),
            lambda: store.delete(name),
            lambda: store.worker_alive("m", "d"),
            store.probe,
        ):
            with pytest.raises(redis.RedisError) as caught:
                call()
            failure = describe(caught.value)
            assert failure is not None
            assert (failure.code, failure.reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE")
            assert failure.retry_seconds


def test_nobody_there_and_a_wrong_password(private_redis, admin):
    admin.acl_setuser("reader", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])
    urls = (closed_port(), "unix:///nowhere/redis.sock", f"unix://reader:wrong@{private_redis.socket}")
    for url in urls:
        with connect(url, patient=False) as client:
            with pytest.raises(redis.RedisError) as caught:
                ExplanationStore(client).list()
            assert describe(caught.value).code is Code.UNAVAILABLE
