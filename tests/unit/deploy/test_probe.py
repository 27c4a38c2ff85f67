"""The probe of health checks."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.probe import main


@pytest.fixture
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("down", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_serving_server_and_its_services(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([address]) == 0
    assert main([address, "down"]) == 1
    assert "down is NOT_SERVING" in capsys.readouterr().err
    assert main([address, "unknown"]) == 1
    assert "NOT_FOUND: the server has no service 'unknown'" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["127.0.0.1:1"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
    assert main(["http://127.0.0.1:1/metrics"]) == 1
    assert "refused" in capsys.readouterr().err


def test_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert main([f"http://127.0.0.1:{server.server_port}/metrics"]) == 0
        assert main([f"http://127.0.0.1:{server.server_port}/nothing"]) == 1
        assert "404" in capsys.readouterr().err
        server.shutdown()
        thread.join()


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["127.0.0.1:1", "a", "b"], ["--no-such-option"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "usage" in capsys.readouterr().err


def test_help_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "HOST:PORT" in capsys.readouterr().out
