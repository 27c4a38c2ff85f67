"""Fixtures that all tests share; each file under `tests/fixtures` is one subject."""

import atexit
import os
import shutil
import signal
import tempfile

from ml.spin import wait_patiently

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.models",
    "tests.fixtures.processes",
    "tests.fixtures.stack",
    "tests.fixtures.certificates",
    "tests.fixtures.keys",
    "tests.fixtures.threads",
]

wait_patiently()

# What is kept of a model's verification is these tests' own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="gloss-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# Where a shell started the tests in the background, SIGINT is ignored, and so it would be in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
