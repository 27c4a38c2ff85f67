"""The audit log: who changed what, when, and how that ended, and nothing of what was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from gloss import v1 as pb
from tests.fixtures.keys import Keys
from tests.fixtures.processes import ProcessFactory
from tests.integration import contract
from tests.integration.explanations import lime, wait_for
from tests.integration.serving import Served, serve

SECRET = "the launch code is 0000"  # noqa: S105 -- a prompt
SERVICE = {method.name: method for method in contract.methods()}
CHANGES_SOMETHING = {"CreateExplanation", "CancelExplanation", "DeleteExplanation"}


class Audited:
    """A server with an audit log, and somebody with a key."""

    def __init__(self, served: Served, path: Path, key: str) -> None:
        self.served, self.path, self._key = served, path, key

    def ask(self, method: str, key: str | None = None, **fields):
        """The reply; a status where the call fails."""
        request = contract.request_of(SERVICE[method], **fields)
        try:
            return contract.ask(self.served.channel, SERVICE[method], request, self._key if key is None else key)
        except grpc.RpcError as error:
            return error.code()

    def entries(self, count: int) -> list[dict]:
        """What is written, once it is so much: a caller hears of a failed call a moment before."""
        lines = wait_for(lambda: found if len(found := self.path.read_text().splitlines()) >= count else None)
        assert len(lines) == count
        return [json.loads(line) for line in lines]


@pytest.fixture
def audited(gpt2_worker: str, keys: Keys, tmp_path: Path, tiny_gpt2: Path) -> Iterator[Audited]:
    key, path = keys("alice", "--tenant", "team"), tmp_path / "audit"
    with serve([tiny_gpt2], redis_url=gpt2_worker, api_keys_file=keys.path, audit_file=path) as served:
        yield Audited(served, path, key)


def test_tells_who_did_what_and_when_and_how_it_ended(audited: Audited):
    began = datetime.now(UTC)
    name = audited.ask("CreateExplanation", spec=lime(text=SECRET), request_id="one").name
    audited.ask("GetExplanation", name=name)
    audited.ask("CreateExplanation", spec=lime(text=SECRET), validate_only=True)
    audited.ask("CreateExplanation", spec=lime(text=SECRET, seed=1), request_id="one")
    audited.ask("CancelExplanation", name=name)
    audited.ask("DeleteExplanation", name=name)
    audited.ask("DeleteExplanation", name=name)
    audited.ask("DeleteExplanation", name=SECRET)
    audited.ask("CreateExplanation", key="guess", spec=lime(text=SECRET))

    entries = audited.entries(6)
    assert [(entry["method"].rpartition("/")[2], entry["resource"], entry["outcome"]) for entry in entries] == [
        ("CreateExplanation", name, "OK"),
        ("CreateExplanation", "", "ALREADY_EXISTS"),
        ("CancelExplanation", name, "OK"),
        ("DeleteExplanation", name, "OK"),
        ("DeleteExplanation", name, "NOT_FOUND"),
        ("DeleteExplanation", "", "INVALID_ARGUMENT"),
    ]
    for entry in entries:
        assert (entry["caller"], entry["tenant"], entry["admin"]) == ("alice", "tenant:team", False)
        assert entry["peer"].startswith("ipv4:127.0.0.1:")
        assert began - timedelta(seconds=1) < datetime.fromisoformat(entry["time"]) < datetime.now(UTC)
    assert SECRET not in audited.path.read_text()
    assert audited.path.stat().st_mode & 0o777 == 0o600


def test_every_method_of_the_contract_is_written_down_unless_it_only_reads(audited: Audited):
    for method in contract.methods():
        audited.ask(method.name)
    written = audited.entries(len(CHANGES_SOMETHING))
    assert {entry["method"].rpartition("/")[2] for entry in written} == CHANGES_SOMETHING


def test_a_call_that_is_refused_by_a_limit_or_is_malformed_is_written_down(audited: Audited, keys):
    few = keys("few", "--prompts-per-minute", "1")
    method = SERVICE["DeleteExplanation"]
    for _ in range(2):
        audited.ask(method.name, key=few, name="explanations/" + "0" * 32)
    send = audited.served.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
    with pytest.raises(grpc.RpcError):
        send(b"\xff", metadata=[("authorization", f"Bearer {few}")], timeout=20)
    assert [(entry["caller"], entry["outcome"]) for entry in audited.entries(3)] == [
        ("few", "NOT_FOUND"),
        ("few", "RESOURCE_EXHAUSTED"),
        ("few", "RESOURCE_EXHAUSTED"),
    ]


def test_a_file_that_is_moved_away_is_begun_anew(audited: Audited):
    audited.ask("DeleteExplanation", name="explanations/1")
    audited.entries(1)
    audited.path.rename(audited.path.with_suffix(".1"))
    audited.path.touch()
    audited.ask("DeleteExplanation", name="explanations/2")
    assert [entry["resource"] for entry in audited.entries(1)] == ["explanations/2"]
    audited.path.unlink()
    audited.ask("CreateExplanation", spec=lime())
    assert [entry["outcome"] for entry in audited.entries(1)] == ["OK"]


def test_an_entry_that_cannot_be_written_is_counted_and_goes_to_stderr(audited: Audited, capsys):
    audited.ask("DeleteExplanation", name="explanations/1")
    audited.entries(1)
    assert audited.served.metric("gloss_audit_failures_total") == 0
    audited.path.unlink()
    audited.path.mkdir()
    assert audited.ask("DeleteExplanation", name="explanations/2") is grpc.StatusCode.NOT_FOUND
    wait_for(lambda: audited.served.metric("gloss_audit_failures_total") == 1)
    said: list[str] = []

    def line() -> str | None:
        said.append(capsys.readouterr().err)
        return next((line for line in "".join(said).splitlines() if line.startswith("{")), None)

    assert json.loads(wait_for(line))["resource"] == "explanations/2"


def test_a_full_disk_is_a_failure(audited: Audited):
    audited.path.unlink()
    audited.path.symlink_to("/dev/full")
    audited.ask("DeleteExplanation", name="explanations/1")
    wait_for(lambda: audited.served.metric("gloss_audit_failures_total") == 1)


def test_goes_to_stderr_where_no_file_is_named(tiny_gpt2, keys, capsys):
    key = keys("alice")
    with serve([tiny_gpt2], api_keys_file=keys.path) as served:
        request = pb.DeleteExplanationRequest(name="explanations/1")
        with pytest.raises(grpc.RpcError):
            contract.ask(served.channel, SERVICE["DeleteExplanation"], request, key)
    lines = capsys.readouterr().err.splitlines()
    [entry] = [json.loads(line) for line in lines if line.startswith("{")]
    assert (entry["caller"], entry["resource"]) == ("alice", "explanations/1")
    assert entry["outcome"] == "NOT_FOUND", "such a name was never given out"


@pytest.mark.slow
def test_a_file_that_cannot_be_written_ends_the_process(server_process: ProcessFactory, tiny_gpt2, tmp_path):
    server = server_process(
        {"GLOSS_MODEL": str(tiny_gpt2), "GLOSS_AUDIT_FILE": str(tmp_path / "no" / "where")}, wait=False
    )
    wait_for(lambda: server.child.exit_code() is not None, timeout=60)
    assert server.child.exit_code() == 2
    assert "error: GLOSS_AUDIT_FILE: " in server.log
