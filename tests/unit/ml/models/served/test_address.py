"""Addresses of engines."""

import pytest

from ml.errors import ModelLoadError
from ml.models.served.address import Address, is_served_elsewhere, parse


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("vllm+http://host:8000/llama", Address("vllm", ("http://host:8000",), "llama")),
        ("openai+https://host/llama", Address("openai", ("https://host",), "llama")),
        ("vllm+http://a:1;b:2/llama", Address("vllm", ("http://a:1", "http://b:2"), "llama")),
        ("vllm+http://a:1; http://b:2/llama", Address("vllm", ("http://a:1", "http://b:2"), "llama")),
        ("vllm+http://[::1]:8000/llama", Address("vllm", ("http://[::1]:8000",), "llama")),
        ("vllm+http://host/google/gemma-3-270m@v2", Address("vllm", ("http://host",), "google/gemma-3-270m", "v2")),
    ],
)
def test_addresses(source: str, address: Address) -> None:
    assert is_served_elsewhere(source)
    assert parse(source) == address


def test_a_model_is_named_as_by_its_folder() -> None:
    assert parse("vllm+http://host/google/gemma-3-270m@v2").name == "gemma-3-270m"


@pytest.mark.parametrize(
    "source", ["transformer", "./folder", "google/gemma-3-270m", "C:\\models", "/vllm+http", "c++"]
)
def test_what_is_loaded_here(source: str) -> None:
    assert not is_served_elsewhere(source)


@pytest.mark.parametrize(
    "source",
    [
        "vllm+http://host:8000",
        "vllm+http://host:8000/",
        "vllm+http:///llama",
        "vllm+http://host:port/llama",
        "vllm+http://;/llama",
        "other+http://host/llama",
        "vllm+ftp://host/llama",
        "vllm+host:8000/llama",
        "vllm+/llama",
        "openai+http:/host/llama",
    ],
)
def test_what_is_no_address(source: str) -> None:
    assert is_served_elsewhere(source)
    with pytest.raises(ModelLoadError, match=r"vllm\+http://host:8000/NAME"):
        parse(source)


def test_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(ModelLoadError, match="GLOSS_ENGINE_KEY") as caught:
        parse("vllm+http://me:secret@host/llama")
    assert "secret" not in str(caught.value)
