"""The process with the model. Only the fork server starts it; see `worker.fork_server`."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from jobs.start import log_to_stderr
from ml.models.served.address import is_served_elsewhere
from ml.spin import wait_patiently
from worker.fork_server import ignore_signals
from worker.model_process import INTERRUPT
from worker.protocol import Ended, Inbox, Message, Ready, Refused, Run, encode
from worker.settings import Settings

_log = logging.getLogger(__name__)

SELDOM_NEEDED = ("scipy.stats", "sklearn.linear_model", "sklearn.tree")
"""What a second goes to at the first explanation of some kinds, unless it was imported before."""

IDLE_SECONDS = 1.0
"""Without a job, after which one of these is imported."""


def preload() -> None:
    """Import what every model and explainer needs. Starts no thread."""
    wait_patiently()
    served = is_served_elsewhere(Settings().model)
    for name in (
        "worker.context",
        "worker.tasks",
        *(("ml.models.served.model",) if served else ("ml.models.loading.huggingface", "ml.models.lstm.model")),
    ):
        importlib.import_module(name)


def main() -> int:
    """Load the model, then run jobs until the parent closes the pipe or dies."""
    ignore_signals()
    signal.signal(INTERRUPT, signal.SIG_IGN)
    replies = _take_stdout()
    settings = Settings()
    os.nice(settings.worker_nice)
    log_to_stderr(settings.log_level)

    def notify(message: Message) -> None:
        os.write(replies, encode(message))

    # Not at the top: torch takes seconds to import, and the signals must be set before.
    from ml.errors import ModelLoadError  # noqa: PLC0415
    from worker.context import load_context  # noqa: PLC0415
    from worker.tasks import run_explanation  # noqa: PLC0415

    started = time.monotonic()
    try:
        info = load_context(settings, notify)
    except ModelLoadError as error:
        notify(Refused(str(error)))
        return 1
    notify(Ready(info.name, info.digest, time.monotonic() - started))
    for message in received():
        if isinstance(message, Run):
            notify(perform(run_explanation, message.explanation_id))
    return 0


def received() -> Iterator[Message]:
    """The parent's messages, until it closes the pipe. Between them, what is seldom needed is imported."""
    inbox = Inbox(sys.stdin.fileno())
    seldom_needed = list(SELDOM_NEEDED)
    with suppress(EOFError):
        while True:
            message = inbox.receive(IDLE_SECONDS if seldom_needed else None)
            if message is not None:
                yield message
            else:
                importlib.import_module(seldom_needed.pop(0))


def perform(run: Callable[[str], Ended], explanation_id: str) -> Ended:
    """How an explanation ended. Whatever escapes `run` is logged, and counts as lost."""
    try:
        return run(explanation_id)
    except Exception:  # noqa: BLE001 - one explanation must not cost the loaded model
        _log.exception("lost %s", explanation_id)
        return Ended("lost")


def _take_stdout() -> int:
    """A descriptor to the parent that nothing else writes to: what libraries print goes to stderr from here on."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    # Not sys.exit: torch takes seconds to shut down, and everything is written by now.
    os._exit(main())
