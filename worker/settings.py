"""The worker's settings, each one environment variable: the field's name in capitals after ``GLOSS_``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobs.start import EngineKey, RedisUrl
from ml.models.served.options import EngineOptions


class Settings(BaseSettings):
    """Settings of ``python -m worker``. Parent and child each read them once, at their start; never at import."""

    model_config = SettingsConfigDict(env_prefix="GLOSS_", frozen=True, extra="ignore", allow_inf_nan=False)

    model: str = "transformer"
    """A shipped name, a local folder or a hub name, or a model that an external engine serves
    (``vllm+http://host:8000/NAME``): one, because a worker holds one model. Start a worker a model."""

    device: str = "auto"
    """Where the weights are: "auto" (the first GPU, else the CPU), "cpu", "cuda:1", or "balanced" (the layers spread
    over all GPUs, one computing after the other)."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What a model of transformers is kept and computed in: "auto" is bfloat16 on a GPU and float32 on a CPU. On a GPU
    float32 takes twice the memory and several times as long, and is exact where bfloat16 rounds."""

    max_model_bytes: int | None = Field(default=None, ge=1)
    """The most memory that the model's weights may take, in bytes. Unset: what is available. A larger one is refused
    before it is loaded."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of one model call, for server and worker alike; the server takes fewer while other processes use the
    cores. Unset: the machine's cores, or fewer where the container's CPU limit is lower."""

    worker_threads: int | None = Field(default=None, ge=1)
    """The same for the worker alone, which takes precedence. Lower it where several workers share a machine."""

    worker_nice: int = Field(default=5, ge=0, le=19)
    """Niceness of the model's process, so that inference on the same machine stays quick."""

    engine_key: EngineKey = Field(default="", repr=False)
    """Key for an external engine, sent as ``Authorization: Bearer KEY``. Unset: none is sent. Never shown."""

    engine_concurrency: int = Field(default=256, ge=1)
    """The most prompts that are in flight at one replica of an external engine. Fewer leave it to its other users."""

    engine_timeout_seconds: float = Field(default=120.0, gt=0)
    """Seconds that one request to an external engine may take, its own queue included; then it is sent again."""

    engine_patience_seconds: float = Field(default=600.0, ge=0)
    """Seconds for which requests to an engine that is unavailable or overloaded are retried; then the explanation fails
    with ENGINE_UNAVAILABLE. Longer than an engine takes to start again and load a large model."""

    engine_price: float | None = Field(default=None, ge=0)
    """Price of a million prompt tokens at an external engine, in any currency: costs then include it."""

    tokenizer: str = ""
    """Tokenizer of a model that an external engine serves: a folder, or a name on the Hub. Unset: that of the model
    which the engine names."""

    redis_url: RedisUrl = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """The store of explanations. May hold a password, so it is never shown."""

    metrics_host: str = "127.0.0.1"
    """Address of the metrics page. It has no prompts, but do not expose it to the internet."""

    worker_metrics_port: int = Field(default=9465, ge=0, le=65535)
    """Port of the metrics page; 0 takes any free one and the ready line names it."""

    grace_seconds: float = Field(default=5.0, ge=0)
    """Seconds that a running explanation gets to finish after SIGTERM before it goes back to the queue, with what it
    has computed. Keep it some seconds below your orchestrator's kill time-out. A second signal ends it at once."""

    retention_seconds: int = Field(default=24 * 3600, ge=1)
    """Seconds for which an explanation that has ended is kept."""

    max_attempts: int = Field(default=3, ge=1)
    """An explanation that loses its worker this often fails with WORKER_LOST instead of taking the next one down."""

    max_job_seconds: float = Field(default=3600.0, gt=0)
    """Longest time of one attempt at an explanation, in seconds; after it, the explanation fails with TIME_LIMIT. Only
    the time in which it runs counts, not that in which others have the worker."""

    job_slice_seconds: float = Field(default=10.0, gt=0)
    """Seconds after which a running explanation gives way to others that wait. It goes on later from where it was."""

    caches_by_tenant: bool = True
    """Whether values of perturbed prompts that one tenant's explanation has found are kept from other tenants', so that
    neither an explanation's time nor its cache hits show what others asked. For server and worker alike."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """How much is logged to stderr. Prompts are never logged."""

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

    @field_validator("model")
    @classmethod
    def _one_model(cls, model: str) -> str:
        if not model.strip() or "," in model:
            raise ValueError("name one model, because a worker holds one; start a worker for each")
        return model


def complaints(error: ValidationError) -> list[str]:
    """One line for each setting that is not allowed, naming its variable; values are left out, one may be a secret."""
    return [
        f"GLOSS_{'_'.join(map(str, item['loc'])).upper()}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_input=False, include_url=False)
    ]
