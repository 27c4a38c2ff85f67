"""Ports that cannot be had are explained."""

import asyncio
import socket

import grpc
import pytest

from server.ports import StartError, address, take


def refuse():
    raise RuntimeError("Failed to bind to address")


def test_an_address_brackets_ipv6():
    assert address("127.0.0.1", 1) == "127.0.0.1:1"
    assert address("::1", 1) == "[::1]:1"
    assert address("[::1]", 1) == "[::1]:1"


def test_a_taken_port_is_named_with_its_variable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            take("gRPC", "GLOSS_", "127.0.0.1", port, refuse)
    assert caught.value.exit_code == 2
    assert str(caught.value) == f"gRPC port {port} is taken; set GLOSS_PORT to a free port, or to 0 for any"


def test_an_address_of_another_machine_is_named_with_both_variables():
    with pytest.raises(StartError, match=r"192\.0\.2\.1:0 for metrics.*GLOSS_METRICS_HOST and GLOSS_METRICS_PORT"):
        take("metrics", "GLOSS_METRICS_", "192.0.2.1", 0, refuse)


def test_grpc_does_refuse_a_taken_port():
    async def bind():
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(StartError, match=f"port {port} is taken"):
                take("gRPC", "GLOSS_", "127.0.0.1", port, lambda: server.add_insecure_port(f"127.0.0.1:{port}"))

    asyncio.run(bind())
