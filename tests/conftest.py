"""Fixtures that all tests share; each file under `tests/fixtures` is one subject."""

import atexit
import os
import shutil
import signal
import tempfile

from hypothesis import settings

from ml.spin import wait_patiently

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.models",
    "tests.fixtures.processes",
    "tests.fixtures.stack",
    "tests.fixtures.certificates",
    "tests.fixtures.keys",
    "tests.fixtures.distribution",
]

wait_patiently()

# How long an example takes depends on what else the machine does; a hung test has its time-out.
settings.register_profile("gloss", deadline=None)
settings.load_profile("gloss")

# Test files run beside each other. Where threads of torch and numpy outnumber the cores, each small product waits for
# one of them that has none: some files took three times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# shap compiles functions for seconds that tests call a few times.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# What is kept of a model's verification is these tests' own.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="gloss-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# Where a shell started the tests in the background, SIGINT is ignored, and so it would be in every child.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
