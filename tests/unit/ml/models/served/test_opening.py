"""What is refused at the start, and with which words."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from ml.errors import ModelLoadError
from ml.models.served.model import open_model
from ml.models.served.options import EngineOptions
from tests.fixtures.certificates import Authority
from tests.fixtures.engine import Fault, TestEngine, saved
from tests.fixtures.models import byte_level
from tests.fixtures.served import LONGEST, SmallModel


def refusal(address: str, **options: object) -> str:
    with pytest.raises(ModelLoadError) as caught:
        open_model(address, EngineOptions(**{"patience": 0.2, **options}))  # type: ignore[arg-type]
    return str(caught.value)


def test_an_engine_that_is_away() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert "nothing accepts connections" in refusal(f"vllm+http://127.0.0.1:{port}/tiny")


@pytest.fixture
def encrypted(authority: Authority, small_model: SmallModel, tokenizer_folder: str) -> Iterator[TestEngine]:
    """An engine with a certificate by an authority that nobody else trusts."""
    tokenizer = byte_level(unknown="<unk>")
    engine = TestEngine(tokenizer, small_model, origin=tokenizer_folder, longest=LONGEST, certificate=authority.server)
    yield engine
    engine.close()


def test_a_certificate_that_nobody_vouches_for(
    encrypted: TestEngine, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(encrypted.address)
    assert "its certificate is not trusted" in message
    monkeypatch.setenv(re.search(r"SSL_\w+", message)[0], str(authority.ca))  # type: ignore[index]
    open_model(encrypted.address, EngineOptions()).close()


def test_https_where_there_is_none(engine: TestEngine) -> None:
    assert "no encrypted connection" in refusal(engine.address.replace("http:", "https:"))


def test_a_host_that_is_none() -> None:
    assert "cannot be resolved" in refusal("vllm+http://host.invalid:8000/tiny")


def test_another_model(engine: TestEngine) -> None:
    assert "serves no model 'other'; it serves tiny" in refusal(f"vllm+{engine.url}/other")


def test_what_is_no_engine(engine: TestEngine) -> None:
    engine.models = {"models": []}
    assert "lists no models" in refusal(engine.address)


def test_another_tokenizer(engine: TestEngine, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = byte_level(unknown="<unk>")
    other.add_tokens(["France", "the river"])
    folder = saved(other, tmp_path_factory.mktemp("other"))
    message = refusal(engine.address, tokenizer=folder)
    assert "cuts 'The capital of France is" in message
    assert "GLOSS_TOKENIZER" in message


def test_another_tokenizer_where_the_engine_names_no_ids(
    engine: TestEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine.ignores = {"return_token_ids"}
    other = byte_level(unknown="<unk>")
    other.add_tokens(["France", "the river"])
    message = refusal(engine.address, tokenizer=saved(other, tmp_path_factory.mktemp("other")))
    assert "GLOSS_TOKENIZER" in message


def test_no_tokenizer(engine: TestEngine) -> None:
    engine.origin = ""
    assert "set GLOSS_TOKENIZER" in refusal(engine.address)


@pytest.mark.parametrize("status", [400, 422])
def test_an_engine_that_takes_texts_alone(status: int, engine: TestEngine) -> None:
    engine.texts_only = status
    message = refusal(engine.address.replace("vllm+", "openai+"))
    assert "does not take token ids as a prompt" in message
    assert str(status) in message


def test_an_engine_without_log_probabilities(engine: TestEngine) -> None:
    engine.refuses = {"prompt_logprobs", "echo"}
    assert "nothing can be explained by it" in refusal(engine.address)


def test_log_probabilities_that_contradict_each_other(engine: TestEngine) -> None:
    engine.logprobs_temperature = 0.5
    assert "--logprobs-mode" in refusal(engine.address)


def test_noise_that_hides_everything(engine: TestEngine) -> None:
    engine.noise = 0.3
    assert "nothing could be explained" in refusal(engine.address)


def test_noise_is_measured(engine: TestEngine) -> None:
    engine.noise = 0.003
    model = open_model(engine.address, EngineOptions())
    assert 0.001 < model.info.noise < 0.006
    model.close()


def test_lists_that_are_cut_short_while_others_ask_hide_no_ability(engine: TestEngine) -> None:
    engine.cuts_lists = True
    model = open_model(engine.address, EngineOptions())
    assert model.info.max_top_k == engine.max_logprobs
    model.close()


@pytest.mark.parametrize("limit", [1, 2, 5, 20, 399])
def test_the_longest_list_is_found(engine: TestEngine, limit: int) -> None:
    engine.max_logprobs = limit
    model = open_model(engine.address, EngineOptions())
    assert model.info.max_top_k == limit
    model.close()


def test_replicas_of_different_models(engine: TestEngine, tokenizer_folder: str) -> None:
    tokenizer = byte_level(unknown="<unk>")
    other = TestEngine(tokenizer, SmallModel(len(tokenizer), seed=1), origin=tokenizer_folder, longest=192)
    assert "from one replica to the other" in refusal(f"vllm+{engine.url};{other.url}/tiny")
    other.close()


def test_a_start_waits_for_an_engine_that_is_not_ready_and_says_so(
    engine: TestEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.faults = [Fault(status=503, path="/v1/models") for _ in range(3)]
    open_model(engine.address, EngineOptions(patience=5.0)).close()
    assert not engine.faults
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "503" in line
    assert "waiting up to 5 s" in line


def test_the_digest_is_of_name_revision_and_tokenizer(
    engine: TestEngine, tokenizer_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def digest(address: str, tokenizer: str = "") -> str:
        model = open_model(address, EngineOptions(tokenizer=tokenizer))
        model.close()
        return model.info.digest

    same = saved(byte_level(unknown="<unk>"), tmp_path_factory.mktemp("same"))
    assert digest(engine.address) == digest(engine.address, tokenizer_folder) == digest(engine.address, same)
    assert digest(f"{engine.address}@v2") != digest(engine.address)
