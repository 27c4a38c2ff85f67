"""Callers are apart: what one tenant asks, no other can see, list, share, change, or learn of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from redis import Redis

from gloss import v1 as pb
from jobs import names
from jobs.access import Access
from jobs.attempts import AttemptStore
from jobs.errors import ExplanationNotFoundError
from jobs.store import ExplanationStore
from server.keys import main as keys_command
from tests.fixtures.keys import Keys
from tests.integration import contract
from tests.integration.explanations import lime
from tests.integration.serving import Code, Refusal, Served, serve

SERVICE = {method.name: method for method in contract.methods()}
REFERRING = [method for method in contract.methods() if contract.references(method)]
LISTING = [
    method
    for method in contract.methods()
    if any(field.is_repeated and field.message_type and contract.is_resource(field.message_type)
           for field in method.output_type.fields)
]  # fmt: skip
CREATING = [
    method
    for method in contract.methods()
    if contract.tells(method) and method not in REFERRING and method not in LISTING
]
STATES = ("queued", "running", "succeeded", "failed", "cancelled")

QUESTION = lime(30, text="What alice asks is nobody's business but hers.")


class Tenants:
    """A server with keys over an empty Redis, and a worker that does what the test says."""

    def __init__(self, served: Served, client: Redis, keys: dict[str, str]) -> None:
        self.client = client
        self.channel = served.channel
        self.attempts = AttemptStore(client)
        self._keys = keys

    def ask(self, who: str, method: MethodDescriptor | str, **fields):
        """The reply to a call with somebody's key."""
        method = SERVICE[method] if isinstance(method, str) else method
        return contract.ask(self.channel, method, contract.request_of(method, **fields), self._keys[who])

    def refusal(self, who: str, method: MethodDescriptor | str, **fields) -> Refusal:
        """How a call with somebody's key fails."""
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(who, method, **fields)
        return Refusal(caught.value)

    def create(self, who: str, spec: pb.ExplanationSpec = QUESTION, **fields) -> pb.Explanation:
        """An explanation of somebody's."""
        return self.ask(who, "CreateExplanation", spec=spec, **fields)

    def in_state(self, who: str, state: str, **fields) -> pb.Explanation:
        """An explanation of somebody's in a state."""
        name = self.create(who, **fields).name
        if state == "cancelled":
            return self.ask(who, "CancelExplanation", name=name)
        if state != "queued":
            attempt = self.attempts.begin(self.key(who, name))
            if state == "succeeded":
                self.attempts.succeed(attempt, pb.ExplanationResult(text="what alice asked"))
            elif state == "failed":
                self.attempts.fail(attempt, pb.ExplanationError(reason=pb.ERROR_REASON_INTERNAL, message="no"))
        return self.ask(who, "GetExplanation", name=name)

    def key(self, who: str, name: str) -> str:
        """What somebody's explanation is stored under."""
        tenant = {"carol": "tenant:team", "dave": "tenant:team"}.get(who, f"key:{who}")
        return names.key(name.removeprefix("explanations/"), names.owner(tenant))

    def listed(self, who: str, **fields) -> list[str]:
        """The names on somebody's first page."""
        return [each.name for each in self.ask(who, "ListExplanations", **fields).explanations]


@pytest.fixture(scope="module")
def everybody(tmp_path_factory, redis_server, tiny_gpt2: Path) -> Iterator[tuple[Served, Keys, dict[str, str]]]:
    """A server, and the keys of alice and bob, of carol and dave, who are one team, and of root, who is an admin."""
    keys = Keys(tmp_path_factory.mktemp("tenants") / "keys")
    made = {name: keys(name) for name in ("alice", "bob")}
    made |= {name: keys(name, "--tenant", "team") for name in ("carol", "dave")}
    # They are called as the tenants of others are, and are not the same.
    made |= {"team": keys("team"), "mallory": keys("mallory", "--tenant", "alice")}
    made["root"] = keys("root", "--admin")
    with serve([tiny_gpt2], redis_url=redis_server.url, api_keys_file=keys.path) as served:
        yield served, keys, made


@pytest.fixture
def tenants(everybody, gpt2_worker: str, client: Redis) -> Tenants:
    served, _, made = everybody
    return Tenants(served, client, made)


def test_every_method_is_tried_in_one_way():
    """Whoever adds a method that takes or tells what is stored finds it tried here, or learns that it is not."""
    groups = [REFERRING, LISTING, CREATING]
    tried = [method.name for group in groups for method in group]
    assert len(tried) == len(set(tried))
    assert all(groups)
    for method in contract.methods():
        named = {field.name for field in method.input_type.fields} & {"name", "names", "parent", "explanation"}
        assert named == {field.name for field in contract.references(method)}, f"{method.name} needs an annotation"
        assert method.name in tried or not contract.tells(method)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", REFERRING, ids=lambda method: method.name)
def test_what_belongs_to_others_is_not_found(tenants: Tenants, method, state):
    before = tenants.in_state("alice", state)
    [field] = contract.references(method)
    secret = before.name.removeprefix("explanations/")
    for stranger in ("bob", "carol", "mallory"):
        refusal = tenants.refusal(stranger, method, **{field.name: before.name})
        nobodys = tenants.refusal(stranger, method, **{field.name: "explanations/" + "0" * 32})
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "EXPLANATION_NOT_FOUND")
        assert refusal.message.replace(secret, "0" * 32) == nobodys.message
        assert refusal.metadata == {"name": before.name}
        # Whoever guesses the owner cannot name the record either.
        for guess in (tenants.key("alice", before.name), f"{secret}-"):
            assert tenants.refusal(stranger, method, **{field.name: f"explanations/{guess}"}).code is Code.NOT_FOUND
    assert tenants.ask("alice", "GetExplanation", name=before.name) == before
    if not (method.name == "CancelExplanation" and state in {"succeeded", "failed"}):
        assert tenants.ask("alice", method, **{field.name: before.name}) is not None, "the request was a good one"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", LISTING, ids=lambda method: method.name)
def test_lists_hold_what_is_ones_own(tenants: Tenants, method, state):
    hers = tenants.in_state("alice", state)
    theirs = tenants.in_state("carol", state)

    def found(who: str, **fields) -> list[str]:
        return [each.name for each in contract.resources(tenants.ask(who, method, **fields))]

    assert found("bob") == found("mallory") == found("team") == []
    assert found("alice") == [hers.name]
    assert found("carol") == found("dave") == [theirs.name]
    assert found("root") == [theirs.name, hers.name]
    for wanted in pb.ExplanationState.values():
        assert found("bob", state=wanted) == []
        shown = wanted in {hers.state, pb.EXPLANATION_STATE_UNSPECIFIED}
        assert found("alice", state=wanted) == [hers.name] * shown
        assert found("root", state=wanted) == [theirs.name, hers.name] * shown


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method", CREATING, ids=lambda method: method.name)
def test_nothing_is_shared_with_others(tenants: Tenants, method, state):
    fields = {"spec": QUESTION, "request_id": "one"}
    hers = tenants.in_state("alice", state, request_id="one")
    assert tenants.ask("alice", method, **fields).name == hers.name
    for stranger in ("bob", "mallory", "root"):
        own = tenants.ask(stranger, method, **fields)
        assert own.name != hers.name
        assert (own.state, own.attempt) == (pb.EXPLANATION_STATE_QUEUED, 0)
        other = tenants.ask(stranger, method, spec=lime(31), request_id="two")
        assert other.name not in {own.name, hers.name}
        again = tenants.refusal(stranger, method, spec=lime(32), request_id="one")
        assert (again.reason, again.metadata["name"]) == ("REQUEST_ID_REUSED", own.name)
    assert tenants.ask("alice", "GetExplanation", name=hers.name) == hers


def test_keys_of_one_tenant_share(tenants: Tenants):
    name = tenants.create("carol", request_id="ours").name
    assert tenants.create("dave").name == name
    assert tenants.create("dave", request_id="ours").name == name
    assert tenants.refusal("dave", "CreateExplanation", spec=lime(31), request_id="ours").reason == "REQUEST_ID_REUSED"
    assert tenants.ask("dave", "CancelExplanation", name=name).state == pb.EXPLANATION_STATE_CANCELLED
    assert tenants.create("team").name != name


def test_an_admin_sees_and_changes_all(tenants: Tenants):
    for who in ("alice", "carol"):
        name = tenants.create(who).name
        assert tenants.ask("root", "GetExplanation", name=name).spec.prompt == QUESTION.prompt
        assert tenants.ask("root", "WatchExplanation", name=name).explanation.name == name
        assert tenants.ask("root", "CancelExplanation", name=name).state == pb.EXPLANATION_STATE_CANCELLED
        assert tenants.ask(who, "GetExplanation", name=name).state == pb.EXPLANATION_STATE_CANCELLED
        tenants.ask("root", "DeleteExplanation", name=name)
        assert tenants.refusal(who, "GetExplanation", name=name).code is Code.NOT_FOUND
        assert tenants.refusal("root", "GetExplanation", name=name).code is Code.NOT_FOUND
    assert tenants.listed("root") == []
    # What an admin asks for is its own tenant's.
    own = tenants.create("root").name
    assert tenants.refusal("alice", "GetExplanation", name=own).code is Code.NOT_FOUND


def test_pages_are_of_ones_own_list(tenants: Tenants):
    created = [tenants.create(who, lime(seed=seed)).name for seed in range(5) for who in ("alice", "bob")][::-1]
    hers = created[1::2]
    first = tenants.ask("alice", "ListExplanations", page_size=2)
    assert [each.name for each in first.explanations] == hers[:2]
    token = first.next_page_token
    assert tenants.listed("alice", page_size=9, page_token=token) == hers[2:]
    for other in ("bob", "root", "carol"):
        refusal = tenants.refusal(other, "ListExplanations", page_token=token)
        assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "page_token")

    found, token = [], ""
    while token or not found:
        page = tenants.ask("root", "ListExplanations", page_size=3, page_token=token)
        found += [each.name for each in page.explanations]
        token = page.next_page_token
        if token:
            assert tenants.refusal("alice", "ListExplanations", page_token=token).field == "page_token"
    assert found == created


def old_record(client: Redis) -> str:
    """An explanation as it was stored before there were owners. Returns its name."""
    explanation_id = names.new_id()
    asked = pb.Explanation(spec=QUESTION).SerializeToString()
    model = pb.ModelVersion(name="tiny-gpt2", digest="d" * 64).SerializeToString()
    fields = {"spec": asked, "model": model, "state": "RUNNING", "attempt": 1, "lost": 0, "method": "lime"}
    times = {"created": 1_700_000_000_000, "started": 1_700_000_000_001}
    client.hset(f"gloss:explanation:{explanation_id}", mapping={**fields, **times, "spec_hash": "abc", "token": "t"})
    for index in ("ALL", "RUNNING"):
        client.zadd(f"gloss:index:{index}", {explanation_id: 0})
    client.set("gloss:spec:abc", explanation_id)
    client.xadd(f"gloss:events:{explanation_id}", {"state": "RUNNING"})
    return f"explanations/{explanation_id}"


def test_records_without_an_owner_are_an_admins_only(tenants: Tenants):
    old, unnamed = old_record(tenants.client), ExplanationStore(tenants.client).create(QUESTION, pb.ModelVersion()).name
    hers = tenants.create("alice").name
    assert tenants.listed("alice") == [hers]
    assert tenants.listed("root") == [hers, unnamed, old]
    for name in (old, unnamed):
        for method in REFERRING:
            assert tenants.refusal("alice", method, name=name).code is Code.NOT_FOUND
        assert tenants.ask("root", "GetExplanation", name=name).spec.prompt == QUESTION.prompt
        assert tenants.ask("root", "CancelExplanation", name=name).state == pb.EXPLANATION_STATE_CANCELLED
        tenants.ask("root", "DeleteExplanation", name=name)
    assert tenants.listed("root") == [hers]


def test_what_the_version_before_stored_goes_on(client: Redis):
    """Its workers' jobs have its keys, and without keys of an API nobody is kept from them."""
    old = old_record(client)
    store, attempts = ExplanationStore(client), AttemptStore(client)
    assert [each.name for each in store.list(state=pb.EXPLANATION_STATE_RUNNING)[0]] == [old]
    attempt = attempts.begin(old.removeprefix("explanations/"))
    attempts.succeed(attempt, pb.ExplanationResult(text="found"))
    assert store.get(old).result.text == "found"
    assert store.list(access=Access("key:alice"))[0] == []


def test_what_has_expired_is_on_no_list(client: Redis):
    store = ExplanationStore(client, retention_seconds=0.001)
    alice, admin = Access("key:alice"), Access("key:root", admin=True)
    name = store.create(QUESTION, pb.ModelVersion(name="m"), access=alice).name
    with suppress(ExplanationNotFoundError):  # it is gone before it can be read
        store.cancel(name, access=alice)
    while store.list(access=alice)[0] or store.list(access=admin)[0]:
        pass
    assert not client.keys("gloss:index:*")


def test_a_corrupt_explanation_hides_nothing_of_others(tenants: Tenants):
    mine, hers = tenants.create("bob").name, tenants.create("alice").name
    tenants.client.hset(names.record(tenants.key("alice", hers)), "model", b"\xff")
    assert tenants.refusal("alice", "GetExplanation", name=hers).reason == "DATA_CORRUPT"
    assert tenants.refusal("bob", "GetExplanation", name=hers).code is Code.NOT_FOUND
    assert tenants.listed("root") == tenants.listed("bob") == [mine]
    assert tenants.create("alice").name != hers, "it is forgotten, as it is asked for again"


def identify(authority, pair) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.ca.read_bytes(), pair.key.read_bytes(), pair.certificate.read_bytes())


def test_a_client_certificate_is_a_tenant(gpt2_worker, client, authority, tiny_gpt2, keys):
    audit = keys.path.with_name("audit")
    tls = {
        "tls_certificate": authority.server.certificate,
        "tls_key": authority.server.key,
        "tls_client_ca": authority.ca,
        "redis_url": gpt2_worker,
        "audit_file": audit,
    }
    unnamed = ExplanationStore(client).create(QUESTION, pb.ModelVersion()).name

    def ask(served, pair, method, key=None, **fields):
        with grpc.secure_channel(f"localhost:{served.server.port}", identify(authority, pair)) as channel:
            return contract.ask(channel, SERVICE[method], contract.request_of(SERVICE[method], **fields), key)

    pairs = {
        "client": authority.client,
        "first.example": authority.alternative,
        "third.example": authority.principal,
        "registered": authority.registered,
        "": authority.nameless,
    }
    with serve([tiny_gpt2], **tls) as served:
        created = {who: ask(served, pair, "CreateExplanation", spec=QUESTION).name for who, pair in pairs.items()}
        assert len(set(created.values())) == len(pairs)
        for who, pair in pairs.items():
            assert ask(served, pair, "CreateExplanation", spec=QUESTION).name == created[who]
            listed = ask(served, pair, "ListExplanations").explanations
            assert [each.name for each in listed] == [created[who]]
            for other in {*created.values(), unnamed} - {created[who]}:
                with pytest.raises(grpc.RpcError) as caught:
                    ask(served, pair, "GetExplanation", name=other)
                assert caught.value.code() is Code.NOT_FOUND
    tenants = {entry["resource"]: entry["tenant"] for entry in map(json.loads, audit.read_text().splitlines())}
    for who in pairs.keys() - {""}:
        assert tenants[created[who]] == f"certificate:{who}"
    assert len(tenants[created[""]]) > 64, "no name, so its digest"

    key = keys("client")
    with serve([tiny_gpt2], **tls, api_keys_file=keys.path) as served:
        own = ask(served, authority.client, "CreateExplanation", key, spec=QUESTION).name
        assert own not in created.values(), "where both are asked for, the key says whose it is"
        assert ask(served, authority.alternative, "CreateExplanation", key, spec=QUESTION).name == own


def test_without_keys_all_are_one_tenant(gpt2_worker, client, tiny_gpt2):
    old = old_record(client)
    hers = ExplanationStore(client).create(QUESTION, pb.ModelVersion(name="m"), access=Access("key:alice")).name
    with serve([tiny_gpt2], redis_url=gpt2_worker) as served:
        name = served.explanations.CreateExplanation(pb.CreateExplanationRequest(spec=QUESTION)).name
        with grpc.insecure_channel(f"127.0.0.1:{served.server.port}") as another:
            method = SERVICE["ListExplanations"]
            listed = contract.ask(another, method, contract.request_of(method)).explanations
        assert [each.name for each in listed] == [name, old]
        with pytest.raises(grpc.RpcError) as caught:
            served.explanations.GetExplanation(pb.GetExplanationRequest(name=hers))
        assert caught.value.code() is Code.NOT_FOUND


def test_a_name_that_is_revoked_and_given_again_is_the_same_tenant(everybody, gpt2_worker, client):
    served, keys, made = everybody
    before = Tenants(served, client, made).create("bob").name
    assert keys_command(["revoke", "bob", "--file", str(keys.path)]) == 0
    made["bob"] = keys("bob")
    assert Tenants(served, client, made).listed("bob") == [before]
