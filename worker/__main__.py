"""``python -m worker``: run explanations until a signal stops it.

Exit codes: 0 after SIGTERM or SIGINT, 1 if the model cannot be loaded, 2 for invalid settings.
"""

from __future__ import annotations

from jobs.ending import stop_at_once

if __name__ == "__main__":
    stop_at_once()  # Before the imports, which take longest.

import logging
import os
import sys

from pydantic import ValidationError
from rq.exceptions import StopRequested

from jobs.start import log_to_stderr, unknown_variables
from worker.metrics import Metrics, PortError
from worker.model_process import ModelProcess, ModelRefusedError
from worker.service import serve
from worker.settings import Settings, complaints
from worker.stop import ForcedStop, Stop


def main() -> int:
    """Run the worker and return the exit code."""
    try:
        settings = Settings()
    except ValidationError as error:
        return _fail(2, *complaints(error))
    log_to_stderr(settings.log_level)
    for warning in unknown_variables(os.environ):
        logging.getLogger(__name__).warning(warning)
    logging.getLogger("rq").setLevel(logging.WARNING)  # it logs every heartbeat
    stop = Stop(settings.grace_seconds)
    stop.install()
    stop.guard()
    metrics = Metrics()
    child = ModelProcess()
    metrics.fork_server_bytes.set_function(child.fork_server.resident_bytes)
    try:
        with metrics.page(settings.metrics_host, settings.worker_metrics_port) as address:
            try:
                serve(settings, child, metrics, stop, address)
            finally:
                stop.uninstall()
                child.stop()
    except (StopRequested, ForcedStop):
        pass
    except ModelRefusedError as error:
        return _fail(1, str(error))
    except PortError as error:
        return _fail(2, str(error))
    return 0


def _fail(exit_code: int, *lines: str) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
