"""The server's settings, each an environment variable: the field's name in capitals after ``GLOSS_``."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.start import EngineKey, RedisUrl
from ml.models.served.options import EngineOptions


class Settings(BaseSettings):
    """Settings of ``python -m server``. Read once, at the start; never at import."""

    model_config = SettingsConfigDict(env_prefix="GLOSS_", frozen=True, extra="ignore", allow_inf_nan=False)

    # Where it listens.

    host: str = "127.0.0.1"
    """Address of the gRPC port. Anything but loopback needs TLS and a check of callers, by keys or by certificates, or
    ``GLOSS_ALLOW_INSECURE=1``."""

    port: int = Field(default=50051, ge=0, le=65535)
    """The gRPC port; 0 takes any free one and the ready line names it."""

    metrics_host: str = "127.0.0.1"
    """Address of the metrics page. The page holds no prompts, but do not publish it to the world."""

    metrics_port: int = Field(default=9464, ge=0, le=65535)
    """Port of the metrics page; 0 takes any free one and the ready line names it."""

    tls_certificate: Path | None = None
    """PEM file of the server's certificate and the chain above it. With it, the gRPC port speaks TLS only."""

    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a passphrase."""

    tls_client_ca: Path | None = None
    """PEM file of the authorities whose clients may connect: mutual TLS. Every client then needs a certificate."""

    api_keys_file: Path | None = None
    """File of API keys, as ``python -m server.keys new NAME`` writes it. With it, every call but the health service's
    needs a key. It is read again when it changes; certificates are not."""

    audit_file: Path | None = None
    """File to which each call that changes something appends who made it, what it changed, when, and how that ended.
    Unset: stderr, where callers have keys or certificates. It may be moved away at any time."""

    allow_insecure: bool = False
    """Listen beyond loopback without encryption and keys. For a private network or behind a proxy that adds them."""

    # What it serves.

    model: str = "transformer"
    """Models, separated by commas: shipped names, local folders, hub names, or models that external engines serve
    (``vllm+http://host:8000/NAME``). The first is the default."""

    device: str = "auto"
    """Where the weights lie: "auto" (the first GPU, else the CPU), "cpu", "cuda:1", or "balanced" (the layers spread
    over all GPUs, one computing after the other)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What a model of transformers is kept and computed in: "auto" is bfloat16 on a GPU and float32 on a CPU. On a GPU
    float32 takes twice the memory and several times as long, and is exact where bfloat16 rounds."""

    tensor_parallel: int = Field(default=1, ge=1)
    """Processes that compute every layer of the one model together, a GPU each: for a model larger than one GPU. This
    server is the first of them and starts the others."""

    max_model_bytes: int | None = Field(default=None, ge=1)
    """The most memory that a model's weights may take, in bytes. Unset: what is available. A larger one is refused
    before it is loaded."""

    threads: int | None = Field(default=None, ge=1)
    """The most CPU threads of one model call; it takes fewer while other processes use the cores. Unset: the machine's
    cores, or fewer where the container's CPU limit is lower."""

    engine_key: EngineKey = Field(default="", repr=False)
    """What an external engine is sent as ``Authorization: Bearer KEY``. Unset: nothing. Never shown."""

    engine_concurrency: int = Field(default=256, ge=1)
    """The most prompts that are in flight at one replica of an external engine. Fewer leave it to its other users."""

    engine_timeout_seconds: float = Field(default=120.0, gt=0)
    """Seconds that one request to an external engine may take, its own queue included; then it is sent again."""

    engine_patience_seconds: float = Field(default=60.0, ge=0)
    """Seconds for which the server waits at its start for an external engine. Later, calls fail within about ten
    seconds where the engine is away."""

    engine_price: float | None = Field(default=None, ge=0)
    """What an external engine takes for a million prompt tokens, in any currency: costs are then given in it, too."""

    tokenizer: str = ""
    """Tokenizer of a model that an external engine serves: a folder, or a name on the Hub. Unset: that of the model
    which the engine names."""

    redis_url: RedisUrl = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """The store of explanations. Inference does without it. May hold a password, so it is never shown."""

    # How much it takes on.

    max_message_bytes: int = Field(default=4 * 1024 * 1024, ge=16 * 1024, le=2**31 - 1)
    """Largest request and reply, in bytes. Clients have a limit of their own for what they receive."""

    max_prompts: int = Field(default=256, ge=1)
    """The most prompts of one NextToken call and items of one Score call."""

    max_calls: int = Field(default=2048, ge=1)
    """Calls in progress at once, streams included; more are refused at once. A safety net: keep it above the rest."""

    max_batch_tokens: int = Field(default=4096, ge=1)
    """Tokens of one batch, padding included. More is better for throughput and worse for everyone's latency."""

    max_batch_prompts: int = Field(default=64, ge=1)
    """Prompts of one batch."""

    max_waiting_prompts: int = Field(default=2048, ge=1)
    """Prompts waiting for one model, of whatever is asked; a call that would exceed it is refused at once, unless its
    caller has less than an equal share of them waiting. At least max_prompts."""

    max_waiting_tokens: int = Field(default=256 * 1024, ge=1)
    """Tokens waiting for one model, as above: it bounds how long the last in the queue can have to wait."""

    max_waiting_seconds: float = Field(default=5.0, gt=0)
    """The longest that a call, or a text to be generated, may wait for its model, estimated from the model's recent
    throughput; one that would wait longer is refused at once. It bounds the latency of accepted calls under overload:
    set it to what your callers can bear."""

    prefix_cache_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Memory of each model for keys and values of cached prefixes, in bytes: a prefix that comes again is not computed
    again, as long as it was used lately. It is taken at the start. 0 caches nothing."""

    caches_by_tenant: bool = True
    """Whether each tenant has cached prefixes of its own, so that the time of an answer shows no caller what another
    tenant asked. Their memory is shared anyway. Without keys and client certificates all callers are one tenant.
    For server and worker alike: workers keep the values of explanations apart by it."""

    max_generations: int = Field(default=16, ge=1)
    """Texts that each model generates at once; more wait. More is better for throughput, and slower for each."""

    max_generation_bytes: int = Field(default=1024**3, ge=1)
    """Memory for the keys and values of one model's texts, in bytes; it may lower max_generations, to 1 at least."""

    max_queued: int = Field(default=1000, ge=1)
    """Explanations of one model and one tenant waiting for a worker; one more is refused at once."""

    # How long things take.

    grace_seconds: float = Field(default=10.0, ge=0)
    """Seconds that accepted calls get to finish after SIGTERM. Keep it below your orchestrator's kill time-out."""

    retention_seconds: int = Field(default=24 * 3600, ge=1)
    """Seconds for which an explanation that has ended is kept."""

    watch_seconds: float = Field(default=3600.0, gt=0)
    """Longest life of one WatchExplanation stream, in seconds: a client that vanished cannot hold one forever."""

    unread_seconds: float = Field(default=30.0, gt=0)
    """Seconds that a stream waits for its client to read on; then it ends with UNAVAILABLE. Until then a text whose
    client does not read keeps up to 32 unread tokens, and its place unless another text needs it."""

    store_seconds: float = Field(default=1.5, gt=0)
    """Seconds to wait for Redis before the answer is UNAVAILABLE."""

    health_seconds: float = Field(default=1.0, gt=0)
    """Seconds between two looks at Redis and the workers, for ExplanationService's health and queue metrics."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is logged to stderr. Prompts are never logged."""

    @field_validator("tls_certificate", "tls_key", "tls_client_ca", "api_keys_file", "audit_file", mode="before")
    @classmethod
    def _named(cls, file: object) -> object:
        if file == "":  # else it would be the current folder
            raise ValueError("it is set, but empty; name a file, or unset the variable")
        return file

    @field_validator("model")
    @classmethod
    def _each_once(cls, names: str) -> str:
        found = sources(names)
        if not found:
            raise ValueError("it names no model")
        if len(set(found)) < len(found):
            raise ValueError("it names a model more than once")
        return names

    @model_validator(mode="after")
    def _closed_to_others(self) -> Self:
        checked = self.api_keys_file is not None or self.tls_client_ca is not None
        if not is_loopback(self.host) and not self.allow_insecure and not (self.tls_certificate and checked):
            missing = [
                *([] if self.tls_certificate else ["encryption (GLOSS_TLS_CERTIFICATE and GLOSS_TLS_KEY)"]),
                *([] if checked else ["a check of callers (GLOSS_API_KEYS_FILE or GLOSS_TLS_CLIENT_CA)"]),
            ]
            raise ValueError(
                f"GLOSS_HOST: {self.host} is reachable from other machines, without {' and without '.join(missing)}; "
                "set GLOSS_ALLOW_INSECURE=1 to listen there anyway"
            )
        return self

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("GLOSS_TLS_CERTIFICATE: needs GLOSS_TLS_KEY, and the other way round")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("GLOSS_TLS_CLIENT_CA: needs GLOSS_TLS_CERTIFICATE and GLOSS_TLS_KEY")
        return self

    @model_validator(mode="after")
    def _one_model_a_group(self) -> Self:
        if self.tensor_parallel > 1 and len(self.models) > 1:
            raise ValueError("GLOSS_TENSOR_PARALLEL: a server of several models cannot be tensor parallel; serve one")
        return self

    @property
    def engine(self) -> EngineOptions:
        """How an external engine is asked."""
        return EngineOptions(
            key=self.engine_key,
            concurrency=self.engine_concurrency,
            tokenizer=self.tokenizer,
            timeout=self.engine_timeout_seconds,
            patience=self.engine_patience_seconds,
            price=self.engine_price,
        )

    @property
    def models(self) -> tuple[str, ...]:
        """The models' sources, the default one first."""
        return sources(self.model)


def sources(names: str) -> tuple[str, ...]:
    """The sources of models in a list that is separated by commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def complaints(error: ValidationError) -> list[str]:
    """One line for each setting that is not allowed, naming its variable; values are left out, one may be a secret."""
    return [
        # Checks that look at more than one setting name a variable themselves.
        (f"GLOSS_{'_'.join(map(str, item['loc'])).upper()}: " if item["loc"] else "")
        + item["msg"].removeprefix("Value error, ")
        for item in error.errors(include_input=False, include_url=False)
    ]
