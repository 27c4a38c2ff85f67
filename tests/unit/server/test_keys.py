"""API keys: made, kept as hashes, found, limited, revoked."""

from __future__ import annotations

import dataclasses
import logging
import os
import stat
import timeit
from types import SimpleNamespace

import grpc
import pytest

from gloss import v1 as pb
from server.callers import Caller
from server.errors import KeyLimitError
from server.gate import Gate, Usage, prompts
from server.keys import Key, KeyFile, KeyFileError, digest, main, parse


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def new(path, capsys):
    """Makes a key by the command, and returns what it printed."""

    def make(name, *options):
        assert main(["new", name, "--file", str(path), *options]) == 0
        return capsys.readouterr().out.strip()

    return make


def test_a_key_is_shown_once_and_kept_as_its_hash(new, path):
    key = new("alice", "--calls", "2", "--prompts-per-minute", "60")
    assert len(key) > 45
    text = path.read_text()
    assert key not in text
    assert text == f"alice sha256:{digest(key)} calls=2 prompts_per_minute=60\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = KeyFile(path)
    assert keys.find(key) == Key("alice", digest(key), 2, 60)
    assert keys.find(key[:-1]) is None
    assert keys.find("") is None
    assert key not in repr(keys.find(key))


@pytest.mark.parametrize(
    ("path_called", "with_key", "parsed"),
    [
        ("/gloss.v1.InferenceService/NextToken", True, True),
        ("/gloss.v1.InferenceService/NextToken", False, False),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", False, False),
        ("/grpc.health.v1.Health/Check", False, True),
    ],
)
def test_no_message_is_parsed_for_a_caller_who_needs_a_key_and_has_none(new, path, path_called, with_key, parsed):
    key = new("alice")
    metadata = (("authorization", f"Bearer {key if with_key else 'another'}"),)
    parse = pb.NextTokenRequest.FromString
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request, request_deserializer=parse)
    call = SimpleNamespace(method=path_called, invocation_metadata=metadata)
    found = Gate(KeyFile(path)).for_call(handler, call)
    assert isinstance(found.request_deserializer(b""), pb.NextTokenRequest) == parsed


def test_finding_a_key_takes_no_longer_among_thousands(path):
    def seconds(count):
        path.write_text("".join(f"key{number} sha256:{digest(str(number))}\n" for number in range(count)))
        keys = KeyFile(path)
        assert keys.find("0").name == "key0"
        return min(timeit.repeat(lambda: keys.find("absent"), number=20, repeat=20))

    assert seconds(20_000) < 10 * seconds(2)


def test_a_key_has_a_tenant_and_may_be_an_admins(new, path, capsys):
    key = new("alice", "--tenant", "team", "--admin", "--calls", "2")
    assert path.read_text() == f"alice sha256:{digest(key)} tenant=team admin calls=2\n"
    assert KeyFile(path).find(key) == Key("alice", digest(key), calls=2, tenant="team", admin=True)
    assert KeyFile(path).find(new("bob")) == parse(path)[1]
    assert (parse(path)[1].tenant, parse(path)[1].admin) == (None, False)
    assert main(["list", "--file", str(path)]) == 0
    assert capsys.readouterr().out == "alice tenant=team admin calls=2\nbob\n"
    for wrong in ("", "a b", "a/b", "x" * 65):
        assert main(["new", "carol", "--tenant", wrong, "--file", str(path)]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Key("alice", ""), Key("bob", "")),
        (Key("alice", ""), Key("bob", "", tenant="alice")),
        (Key("alice", "", tenant="a"), Key("alice", "", tenant="b")),
    ],
)
def test_keys_are_apart_unless_they_name_the_same_tenant(one, other):
    assert Caller.of_key(one).access.owner != Caller.of_key(other).access.owner
    shared = [dataclasses.replace(key, tenant="shared") for key in (one, other)]
    assert len({Caller.of_key(key).access.owner for key in shared}) == 1


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({"x509_common_name": [b"a"], "x509_subject_alternative_name": [b"b", b"c"]}, "b"),
        ({"x509_common_name": [b"a"], "x509_subject_alternative_name": []}, "a"),
        ({"x509_common_name": [b"a\xff"]}, "a\\xff"),
        ({"x509_common_name": [b""], "x509_pem_cert": [b"pem"]}, digest("pem")),
    ],
)
def test_a_certificate_is_a_tenant_by_its_names(certificate, name):
    caller = Caller.of_certificate(certificate)
    assert (caller.name, caller.access.tenant, caller.access.admin) == (name, f"certificate:{name}", False)
    assert caller.access.owner not in {"", Caller.of_key(Key(name, "")).access.owner}


def test_keys_come_and_go_while_the_file_is_in_use(new, path, capsys):
    first = new("first")
    path.write_text("# whose is whose\n\n" + path.read_text())
    keys = KeyFile(path)
    second = new("second")
    assert keys.find(second).name == "second"
    assert main(["revoke", "first", "--file", str(path)]) == 0
    assert keys.find(first) is None
    assert keys.find(second).name == "second"
    assert path.read_text().startswith("# whose is whose\n")
    assert main(["list", "--file", str(path)]) == 0
    assert capsys.readouterr().out == "second\n"


def test_a_file_that_is_being_broken_leaves_the_keys_as_they_were(new, path, caplog):
    key = new("first")
    keys = KeyFile(path)
    path.write_text(f"{path.read_text()}second {key}\n")
    with caplog.at_level(logging.ERROR, "server.keys"):
        assert keys.find(key).name == "first"
        assert keys.find(key).name == "first"
    assert len(caplog.records) == 1, "logged once"
    assert key not in caplog.text
    path.unlink()
    assert keys.find(key).name == "first"


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice sha256:12",
        f"alice md5:{'0' * 64}",
        f"al/ice sha256:{'0' * 64}",
        f"alice sha256:{'0' * 64} calls=0",
        f"alice sha256:{'0' * 64} calls=many",
        f"alice sha256:{'0' * 64} speed=1",
        f"alice sha256:{'0' * 64} calls=1 calls=2",
        f"alice sha256:{'0' * 64} tenant=",
        f"alice sha256:{'0' * 64} tenant=a/b",
        f"alice sha256:{'0' * 64} tenant=a tenant=b",
        f"alice sha256:{'0' * 64} admin admin",
        f"alice sha256:{'0' * 64} admin=1",
        f"alice sha256:{'0' * 64}\nalice sha256:{'1' * 64}",
    ],
)
def test_a_line_that_makes_no_sense_is_named(path, line):
    path.write_text(f"# a comment\n{line}\n")
    with pytest.raises(KeyFileError, match=r"^line [23] of "):
        parse(path)


def test_files_that_are_no_help(path, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GLOSS_API_KEYS_FILE", raising=False)
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(path)
    path.write_text("# none yet\n")
    with pytest.raises(KeyFileError, match=r"has no key; make one by `python -m server.keys new NAME"):
        KeyFile(path)
    assert main(["new", "alice"]) == 1
    assert "--file or GLOSS_API_KEYS_FILE" in capsys.readouterr().err
    monkeypatch.setenv("GLOSS_API_KEYS_FILE", str(path))
    assert main(["new", "alice"]) == 0
    assert main(["new", "alice"]) == 1
    assert main(["new", "a b"]) == 1
    assert main(["revoke", "bob"]) == 1
    assert len(parse(path)) == 1
    assert os.listdir(tmp_path) == ["keys"], "nothing half written"


def test_calls_in_progress():
    usage, key = Usage(), Key("k", "", calls=2)
    usage.enter(key, 1, 0.0)
    usage.enter(key, 1, 0.0)
    with pytest.raises(KeyLimitError) as caught:
        usage.enter(key, 1, 0.0)
    assert (caught.value.limit, caught.value.value) == ("calls", 2)
    usage.calls -= 1
    usage.enter(key, 1, 0.0)


def test_prompts_a_minute():
    usage, key = Usage(), Key("k", "", prompts_per_minute=60)
    usage.enter(key, 50, 100.0)
    with pytest.raises(KeyLimitError) as caught:
        usage.enter(key, 12, 100.0)
    assert caught.value.retry_seconds == pytest.approx(2.0)
    usage.enter(key, 12, 102.0)
    with pytest.raises(KeyLimitError):
        usage.enter(key, 1, 102.0)
    usage.enter(key, 60, 162.0)


def test_a_call_of_more_than_a_minutes_worth_waits_for_all_of_it_and_pays_for_it():
    usage, key = Usage(), Key("k", "", prompts_per_minute=60)
    usage.enter(key, 120, 0.0)
    with pytest.raises(KeyLimitError) as caught:
        usage.enter(key, 1, 0.0)
    assert caught.value.retry_seconds == pytest.approx(61.0)
    usage.enter(key, 1, 61.0)


def test_what_counts_as_prompts():
    assert prompts(pb.NextTokenRequest(prompts=[pb.Prompt(), pb.Prompt()])) == 2
    assert prompts(pb.ScoreRequest(items=[pb.ScoreItem()] * 3)) == 3
    assert prompts(pb.NextTokenRequest()) == prompts(pb.GenerateRequest()) == 1
