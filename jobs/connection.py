"""Connections to Redis."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

SOCKET_SECONDS = 5.0
HEALTH_CHECK_SECONDS = 15


def connect(url: str, *, patient: bool = True) -> redis.Redis:
    """A client for `url` (redis://, rediss:// or unix://). Nothing is sent before the first command.

    Args:
        url: where Redis is.
        patient: ride out a restart of Redis, with about a minute of retries; the workers' choice, because redis-py's
            own default ends a worker whose job ends while Redis is away. False gives up after one retry, for what can
            be left out.
    """
    return redis.Redis.from_url(
        url,
        retry=Retry(ExponentialWithJitterBackoff(cap=2, base=0.05), 60 if patient else 1),
        socket_connect_timeout=SOCKET_SECONDS,
        socket_timeout=SOCKET_SECONDS,
        health_check_interval=HEALTH_CHECK_SECONDS,
    )
