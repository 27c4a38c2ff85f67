"""Fixtures that all tests share; each file under `tests/fixtures` is one subject."""

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.models",
    "tests.fixtures.processes",
    "tests.fixtures.stack",
    "tests.fixtures.certificates",
    "tests.fixtures.threads",
]
