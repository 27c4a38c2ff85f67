"""``python -m server``: serve until a signal stops it.

Exit codes: 0 after SIGTERM or SIGINT, 1 for a model that cannot be loaded, 2 for settings that cannot be followed.
"""

from __future__ import annotations

from jobs.ending import stop_at_once

if __name__ == "__main__":
    stop_at_once()  # Before the imports, which take longest. Until it is ready there is nothing to finish.

import asyncio
import logging
import os
import sys

from pydantic import ValidationError

from jobs.start import log_to_stderr, unknown_variables
from ml.memory import without_collections
from ml.spin import wait_longer
from server.keys import key_file
from server.ports import StartError, probe, take
from server.settings import Settings, complaints
from server.tls import credentials


def main() -> int:
    """Run the server and return the exit code."""
    try:
        settings = Settings()
    except ValidationError as error:
        return _complain(2, *complaints(error))
    log_to_stderr(settings.log_level)
    for warning in unknown_variables(os.environ):
        logging.getLogger(__name__).warning(warning)
    try:
        # A taken port or a wrong file should be reported at once, and torch takes seconds to import.
        credentials(settings)
        key_file(settings.api_keys_file)
        take("gRPC", "GLOSS_", settings.host, settings.port, lambda: probe(settings.host, settings.port))
        page_host, page_port = settings.metrics_host, settings.metrics_port
        take("metrics", "GLOSS_METRICS_", page_host, page_port, lambda: probe(page_host, page_port))
        wait_longer()
        with without_collections():
            from server.app import run  # noqa: PLC0415

        asyncio.run(run(settings))
    except StartError as error:
        return _complain(error.exit_code, str(error))
    return 0


def _complain(exit_code: int, *lines: str) -> int:
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
