"""What surrounds each call: metrics, statuses, checks of callers, draining, parsing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from server.audit import Audit, AuditLog
from server.call_metrics import count_calls, count_unknown
from server.callers import by_certificate
from server.drain import Drain
from server.gate import Gate
from server.interceptors import OWN_SERVICES, Interceptor, Interceptors, Surround
from server.keys import key_file
from server.metrics import Metrics
from server.requests import Parser
from server.settings import Settings
from server.statuses import Statuses
from server.streams import Writer


def chain(
    settings: Settings,
    metrics: Metrics,
    drain: Drain,
    *,
    enter: Callable[[], Awaitable[None]],
    refused: Callable[[str], None],
) -> Interceptors:
    """All interceptors, in their order.

    Args:
        enter: waited for before each call, of whatever method.
        refused: called with the caller of each call of our services that is refused.

    Raises:
        StartError: the file of keys cannot be used.
    """
    keys = key_file(settings.api_keys_file)
    gate = None if keys is None else Gate(keys)
    interceptors = [
        Writer(settings.unread_seconds),
        Surround(count_calls(metrics)),
        Statuses(settings.max_message_bytes, refused),
        *_audits(settings, metrics),
        # A key comes after a certificate: where both are required, it says more.
        *_certificates(settings),
        *([] if gate is None else [gate]),
        Surround(lambda _: drain.accept, OWN_SERVICES),
        Parser(),
    ]
    return Interceptors(interceptors, enter, count_unknown(metrics), None if gate is None else gate.for_call)


def _audits(settings: Settings, metrics: Metrics) -> list[Audit]:
    named = settings.api_keys_file is not None or settings.tls_client_ca is not None
    if not named and settings.audit_file is None:
        return []
    return [Audit(AuditLog(settings.audit_file, metrics))]


def _certificates(settings: Settings) -> list[Interceptor]:
    return [] if settings.tls_client_ca is None else [Surround(lambda _: by_certificate, OWN_SERVICES)]
