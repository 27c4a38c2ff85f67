"""Where a model is served elsewhere, as ``GLOSS_MODEL`` names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ml.errors import ModelLoadError

_FORM = re.compile(
    r"(?P<engine>vllm|openai)\+(?P<scheme>https?)://"
    r"(?P<hosts>[^/;]+(?:;\s*(?:https?://)?[^/;]+)*)/(?P<model>[^@]+)(?:@(?P<revision>.+))?"
)
_EXAMPLE = "vllm+http://host:8000/NAME"


@dataclass(frozen=True)
class Address:
    """An engine's replicas, and the model that is asked of them.

    Attributes:
        engine: "vllm", or "openai" for whatever else speaks OpenAI's API.
        replicas: URLs without a path.
        model: its name, as the engine calls it.
        revision: of the model on the Hub; "" where none was given.
    """

    engine: str
    replicas: tuple[str, ...]
    model: str
    revision: str = ""

    @property
    def name(self) -> str:
        """What Gloss calls the model: the last part of its name."""
        return self.model.rpartition("/")[2]


def is_served_elsewhere(source: str) -> bool:
    """Whether `source` names a model of an engine, be it by a mistyped address, and not one that is loaded here."""
    return re.match(r"\s*(?:(?:vllm|openai)\+|[a-z]+\+https?:)", source) is not None


def parse(source: str) -> Address:
    """The address that `source` spells: ``vllm+http://HOST:PORT/NAME``, several hosts separated by ``;``.

    The name may be one of the Hub (``google/gemma-3-270m``), and have a revision behind an ``@``.

    Raises:
        ModelLoadError: it spells none.
    """
    found = _FORM.fullmatch(source.strip())
    if found is None:
        raise ModelLoadError(f"{source!r} is no address of a served model; write {_EXAMPLE}")
    hosts = [host.strip().removeprefix(f"{found['scheme']}://") for host in found["hosts"].split(";")]
    replicas = tuple(f"{found['scheme']}://{host}" for host in hosts if host)
    for replica in replicas:
        _check(source, replica)
    return Address(found["engine"], replicas, found["model"].strip("/"), found["revision"] or "")


def _check(source: str, replica: str) -> None:
    try:
        parts = urlsplit(replica)
        complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    else:
        if parts.username is not None:
            # Not shown: it may hold a password.
            raise ModelLoadError("an engine's address may not hold a user or a password; set GLOSS_ENGINE_KEY")
    if not complete:
        raise ModelLoadError(f"{source!r} names no host and port; write {_EXAMPLE}")
