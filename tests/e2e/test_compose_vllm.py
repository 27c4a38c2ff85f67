"""The profile `vllm` of docker-compose.yml for real: an image without torch explains what the service beside it serves.

vLLM's own image wants a GPU and gigabytes, so the engine of the tests stands in its place (`tests/e2e/engine.py`).
"""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from deploy.probe import check_grpc
from deploy.stack import EXPLANATIONS
from tests.e2e.deployment import Deployment, compose_command, environment, fetch, wait_for
from tests.fixtures.processes import CHECKOUT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

ENGINE = """
FROM {gloss}
COPY . /app/tests
ENTRYPOINT ["python", "-m", "tests.e2e.engine"]
"""

WITHOUT_GPU = """
services:
  vllm:
    image: {engine}
    deploy: !reset null
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """What the head of docker-compose.yml says to set, and a key."""
    folder = tmp_path_factory.mktemp("engine")
    gloss, engine = "gloss-engine", f"gloss-test-engine-{os.getpid()}"
    (folder / "Dockerfile").write_text(ENGINE.format(gloss=gloss))
    (folder / "override.yml").write_text(WITHOUT_GPU.format(engine=engine))
    files = ["-f", str(CHECKOUT / "docker-compose.yml"), "-f", str(folder / "override.yml")]
    up = Deployment(
        [*compose_command(), *files, "-p", f"gloss-test-vllm-{os.getpid()}", "--profile", "vllm"],
        environment(
            GLOSS_EXTRA="engine",
            GLOSS_IMAGE=gloss,
            GLOSS_MODEL="vllm+http://vllm:8000/transformer",
            GLOSS_VLLM_MODEL="transformer",
            GLOSS_ENGINE_KEY="secret",
        ),
    )
    builder = "podman" if "podman" in up.compose[0] or not shutil.which("docker") else "docker"
    try:
        up.run("build", "server")
        subprocess.run([builder, "build", "-t", engine, "-f", folder / "Dockerfile", CHECKOUT / "tests"], check=True)
        up.run("up", "-d", "redis", "vllm", "server", "worker")
        wait_for(lambda: check_grpc(up.at("GLOSS_PORT"), EXPLANATIONS), timeout=300)
        yield up
    finally:
        print(up.run("logs", check=False).stdout)
        up.run("down", "-v", check=False)
        subprocess.run([builder, "rmi", engine], check=False)


def test_the_image_has_no_torch(deployment: Deployment) -> None:
    found = deployment.within(
        "server", "python", "-c", "from importlib.util import find_spec; print(find_spec('torch'))"
    )
    assert found == "None"


def test_a_client_asks_and_has_explained_what_the_engine_serves(deployment: Deployment) -> None:
    assert "served by vllm 0.32" in deployment.gloss("models")
    assert deployment.gloss("next", "The river runs through the")
    assert "river" in deployment.gloss("explain", "The river runs through the old town", "--method", "lime")
    for port in ("GLOSS_METRICS_PORT", "GLOSS_WORKER_METRICS_PORT"):
        assert 'gloss_engine_requests_total{outcome="ok"}' in fetch(f"http://{deployment.at(port)}/metrics")
