"""The Lua scripts that move an explanation from one state to the next, one atomic step each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis import Redis
from redis.commands.core import Script

_FOLDER = Path(__file__).with_name("lua")


class Scripts:
    """The scripts of `jobs/lua`, each callable by its name: ``scripts("begin", explanation_id, token, ...)``.

    They are sent to Redis once and called by their digest. The keys are built in the scripts, because which ones are
    touched depends on what is found; so they need one Redis, not a cluster, as RQ does.
    """

    def __init__(self, redis: Redis) -> None:
        prelude = (_FOLDER / "prelude.lua").read_text()
        self._scripts: dict[str, Script] = {
            path.stem: redis.register_script(f"{prelude}\n{path.read_text()}")
            for path in _FOLDER.glob("*.lua")
            if path.stem != "prelude"
        }

    def __call__(self, name: str, *arguments: str | bytes | float) -> Any:
        """Run one script with its ARGV."""
        return self._scripts[name](args=arguments)
