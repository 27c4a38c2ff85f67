"""All models of a server, wherever they are computed: by this process, or by external engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Sequence
from typing import Protocol

from ml.generation import Generation, Step
from server.calls import Answer
from server.questions import Task


class Text(Protocol):
    """A generated text. Iterate over its steps; call `abandon` to stop early."""

    queue_seconds: float
    model_seconds: float
    cached_tokens: int | None

    def abandon(self) -> None:
        """Generate no more of it."""
        ...

    def __aiter__(self) -> AsyncIterator[Step]: ...


class Engine(Protocol):
    """What answers questions about some models; see `server.engine.Engine`."""

    def check_capacity(self, model: str, caller: Hashable = None) -> None:
        """Raise `OverloadedError` where a call would be refused."""
        ...

    async def submit(
        self,
        model: str,
        tasks: Sequence[Task],
        *,
        caller: Hashable = None,
        namespace: str = "",
        seconds: float | None = None,
    ) -> Answer:
        """Answer `tasks`."""
        ...

    def generate(
        self,
        model: str,
        ids: Sequence[int],
        generation: Generation,
        *,
        caller: Hashable = None,
        namespace: str = "",
    ) -> Text:
        """Begin to continue `ids`."""
        ...


class Engines:
    """Hands each question to the engine of its model."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def add(self, models: Sequence[str], engine: Engine) -> None:
        """Let `engine` answer questions about `models`."""
        self._engines |= dict.fromkeys(models, engine)

    def check_capacity(self, model: str, caller: Hashable = None) -> None:
        """Refuse early, before the work of preparing tasks.

        Raises:
            OverloadedError: too much waits for `model` already.
        """
        self._engines[model].check_capacity(model, caller)

    async def submit(
        self,
        model: str,
        tasks: Sequence[Task],
        *,
        caller: Hashable = None,
        namespace: str = "",
        seconds: float | None = None,
    ) -> Answer:
        """Answer `tasks` about `model`; see `server.engine.Engine.submit`."""
        engine = self._engines[model]
        return await engine.submit(model, tasks, caller=caller, namespace=namespace, seconds=seconds)

    def generate(
        self, model: str, ids: Sequence[int], generation: Generation, *, caller: Hashable = None, namespace: str = ""
    ) -> Text:
        """Begin to continue `ids`; see `server.engine.Engine.generate`."""
        return self._engines[model].generate(model, ids, generation, caller=caller, namespace=namespace)
