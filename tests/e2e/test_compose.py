"""docker-compose.yml for real: the image is built, everything comes up, and a client walks through it."""

import os
from collections.abc import Iterator

import pytest

from deploy.probe import check_grpc, check_http
from deploy.stack import EXPLANATIONS
from tests.e2e.deployment import Deployment, compose_command, environment, fetch, wait_for

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

SERVICES = ("redis", "server", "worker", "prometheus")


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    up = Deployment([*compose_command(), "-p", f"gloss-test-{os.getpid()}"], environment())
    try:
        up.run("up", "-d", "--build", *SERVICES)
        # Health checks are not waited for: not every implementation of compose runs them.
        wait_for(lambda: check_grpc(up.at("GLOSS_PORT"), EXPLANATIONS), timeout=300)
        yield up
    finally:
        print(up.run("logs", check=False).stdout)
        up.run("down", "-v", check=False)


def test_a_client_walks_through_it_and_both_pages_count_its_jobs(deployment: Deployment) -> None:
    deployment.gloss("tour")

    server = fetch(f"http://{deployment.at('GLOSS_METRICS_PORT')}/metrics")
    assert 'grpc_method="CreateExplanation"' in server
    worker = fetch(f"http://{deployment.at('GLOSS_WORKER_METRICS_PORT')}/metrics")
    assert "gloss_" in worker


def test_nobody_is_root(deployment: Deployment) -> None:
    for service in ("server", "worker"):
        assert deployment.within(service, "id", "-u") == "10001"


def test_the_health_checks_commands_pass(deployment: Deployment) -> None:
    deployment.within("server", "python", "-m", "deploy.probe", "127.0.0.1:50051")
    deployment.within("worker", "python", "-m", "deploy.probe", "http://127.0.0.1:9465/metrics")
    assert deployment.within("redis", "redis-cli", "ping") == "PONG"
    assert deployment.within("redis", "redis-cli", "config", "get", "appendonly").split() == ["appendonly", "yes"]


def test_prometheus_scrapes_both_and_holds_the_rules(deployment: Deployment) -> None:
    wait_for(lambda: check_http(f"http://{deployment.at('GLOSS_PROMETHEUS_PORT')}/-/ready"), timeout=60)

    def both_are_up() -> None:
        targets = {
            target["labels"]["job"]: target["health"] for target in deployment.prometheus("targets")["activeTargets"]
        }
        assert targets == {"gloss-server": "up", "gloss-worker": "up"}

    wait_for(both_are_up, timeout=60)
    assert [group["name"] for group in deployment.prometheus("rules")["groups"]] == ["gloss"]
