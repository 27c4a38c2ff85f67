"""The files of a deployment agree with the code: metrics exist, ports and variables are the settings' own."""

import json
import re
import shutil
import subprocess
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry, generate_latest

from gloss.v1 import explanation_service_pb2, inference_service_pb2
from server.call_metrics import camel
from server.metrics import Metrics as ServerMetrics
from server.settings import Settings as ServerSettings
from tests.fixtures.processes import CHECKOUT
from worker.metrics import Metrics as WorkerMetrics
from worker.settings import Settings as WorkerSettings

DEPLOY = CHECKOUT / "deploy"
PROMETHEUS_OWN = {"up"}


def series(registry: CollectorRegistry) -> set[str]:
    """Every name that a query can use."""
    names = set()
    for family in registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + end for end in ends}
    return names


def named_in(expression: str) -> set[str]:
    """The series that a PromQL expression names."""
    bare = re.sub(r'"[^"]*"|\b(?:by|on|without) \([^)]*\)|\[\w+\]', "", expression)
    return set(re.findall(r"\b(?:gloss|grpc|process)_\w+(?![\w(=])|\bup\b", re.sub(r"{[^}]*}", "", bare)))


def dashboard_expressions() -> list[str]:
    panels = json.loads((DEPLOY / "grafana/dashboards/gloss.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def alert_expressions() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def documented() -> list[str]:
    return re.findall(r"`((?:gloss|grpc_server)_\w+)", (CHECKOUT / "docs/operations.md").read_text())


@pytest.mark.parametrize("source", [dashboard_expressions, alert_expressions, documented])
def test_only_series_that_exist_are_used(source: Any) -> None:
    known = series(ServerMetrics().registry) | series(WorkerMetrics().registry) | PROMETHEUS_OWN
    known |= {name.removesuffix("_bucket") for name in known}
    used = set().union(*(named_in(expression) for expression in source()))
    assert used, "nothing found: has the file's layout changed?"
    assert used <= known


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not on PATH; Debian's package prometheus has it, and .ci/run fetches it")
    return found


@pytest.mark.parametrize("metrics", [ServerMetrics, WorkerMetrics])
def test_pages_pass_promtool(metrics: Any, promtool: str) -> None:
    page = generate_latest(metrics().registry)
    result = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", DEPLOY / "prometheus/prometheus.yml"],
        ["test", "rules", DEPLOY / "prometheus/alerts_test.yml"],
    ],
)
def test_prometheus_files_pass_promtool(command: list[Any], promtool: str) -> None:
    result = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    cases = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yml").read_text())["tests"]
    seen = [test for case in cases for test in case["alert_rule_test"]]
    for alert in [rule["alert"] for group in groups for rule in group["rules"]]:
        fires = {bool(test["exp_alerts"]) for test in seen if test["alertname"] == alert}
        assert fires == {True, False}, alert


def label_values() -> dict[str, set[str]]:
    """By label, every value that the code and Prometheus can write, for labels that queries choose by."""
    services = [
        *inference_service_pb2.DESCRIPTOR.services_by_name.values(),
        *explanation_service_pb2.DESCRIPTOR.services_by_name.values(),
        *health_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    return {
        "grpc_code": {camel(code) for code in grpc.StatusCode},
        "grpc_type": {"unary", "server_stream", "client_stream", "bidi_stream", "unknown"},
        "grpc_service": {service.full_name for service in services},
        "grpc_method": {method.name for service in services for method in service.methods},
        "job": {job["job_name"] for job in jobs},
    }


def chosen_in(expression: str) -> list[tuple[str, str, str]]:
    """The label, the operator and the value of each choice by label in a PromQL expression."""
    choices = [choice for braces in re.findall(r"{([^}]*)}", expression) for choice in braces.split(",")]
    found = [re.fullmatch(r'\s*(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*', choice) for choice in choices]
    assert all(found), f"not understood: {expression}"
    return [match.groups() for match in found if match]  # type: ignore[misc]  # three of them


def documented_queries() -> list[str]:
    return re.findall(r"`\w+{[^}`]*=[^}`]*}`", (CHECKOUT / "docs/operations.md").read_text())


@pytest.mark.parametrize("source", [dashboard_expressions, alert_expressions, documented_queries])
def test_only_label_values_that_can_be_written_are_asked_for(source: Any) -> None:
    known = label_values()
    choices = [choice for expression in source() for choice in chosen_in(expression)]
    assert choices, "nothing found: has the file's layout changed?"
    for label, operator, value in choices:
        assert label in known, f"{label}: add the values that it can have"
        for each in value.split("|") if "~" in operator else [re.escape(value)]:
            assert any(re.fullmatch(each, one) for one in known[label]), f"{label}={each} is never written"


def variables(*settings: Any) -> set[str]:
    return {f"GLOSS_{name.upper()}" for each in settings for name in each.model_fields}


def test_containers_set_variables_that_exist_and_ports_that_prometheus_scrapes() -> None:
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"]
    for service, settings in (("server", ServerSettings), ("worker", WorkerSettings)):
        environment = compose[service]["environment"]
        assert set(environment) <= variables(settings) | {"HF_TOKEN"}
        within = {port.rpartition(":")[2] for port in compose[service]["ports"]}
        assert within == {value for name, value in environment.items() if name.endswith("_PORT")}
        assert all(port.startswith("127.0.0.1:") for port in compose[service]["ports"])

    jobs = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    scraped = {job["dns_sd_configs"][0]["names"][0]: str(job["dns_sd_configs"][0]["port"]) for job in jobs}
    assert scraped == {
        "server": compose["server"]["environment"]["GLOSS_METRICS_PORT"],
        "worker": compose["worker"]["environment"]["GLOSS_WORKER_METRICS_PORT"],
    }


def test_kubernetes_sets_variables_that_exist_and_ports_that_are_theirs() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes/gloss.yaml").read_text()))
    (config,) = (document["data"] for document in documents if document["kind"] == "ConfigMap")
    assert set(config) <= variables(ServerSettings, WorkerSettings)
    ports = {
        port["containerPort"]
        for document in documents
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    assert ports == {int(value) for name, value in config.items() if name.endswith("_PORT")}


@pytest.mark.parametrize("name", ["gloss", "vllm"])
def test_kubernetes_knows_every_field(name: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate, of 100 MB")
    for document in yaml.safe_load_all((DEPLOY / f"kubernetes/{name}.yaml").read_text()):
        schemas.validate(document, schemas.latest_version(), strict=True)


def test_vllm_and_gloss_share_key_and_token() -> None:
    compose = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())["services"]
    vllm = compose["vllm"]["environment"]
    for service in ("server", "worker"):
        environment = compose[service]["environment"]
        assert environment["HF_TOKEN"] == vllm["HF_TOKEN"]  # one fetches the model, the others its tokenizer
        assert environment["GLOSS_ENGINE_KEY"] == vllm["VLLM_API_KEY"]

    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes/vllm.yaml").read_text()))
    by_kind = {document["kind"]: document for document in documents}
    secret, pod = by_kind["Secret"], by_kind["Deployment"]["spec"]["template"]
    assert set(secret["stringData"]) <= variables(ServerSettings, WorkerSettings) | {"HF_TOKEN"}
    (container,) = pod["spec"]["containers"]
    wanted = [each["valueFrom"]["secretKeyRef"] for each in container["env"]]
    assert {each["name"] for each in wanted} == {secret["metadata"]["name"]}
    assert {each["key"] for each in wanted} == set(secret["stringData"])
    service = by_kind["Service"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["port"] == container["ports"][0]["containerPort"]
    assert f"vllm+http://{service['metadata']['name']}:8000/" in (DEPLOY / "kubernetes/vllm.yaml").read_text()


def test_documented_settings_exist() -> None:
    text = (CHECKOUT / "docs/operations.md").read_text()
    client = {"GLOSS_ADDRESS", "GLOSS_KEY", "GLOSS_CA", "GLOSS_CERTIFICATE", "GLOSS_CERTIFICATE_KEY"}
    table = "".join(line for line in text.splitlines(keepends=True) if line.startswith("| `GLOSS_"))
    names = set(re.findall(r"GLOSS_\w+", table))
    assert names, "nothing found: has the page's layout changed?"
    assert names <= variables(ServerSettings, WorkerSettings) | client


def test_every_package_is_in_the_image() -> None:
    ignored = (CHECKOUT / ".dockerignore").read_text()
    for package in ("gloss", "jobs", "ml", "schema", "server", "worker"):
        assert f"!{package}\n" in ignored
