"""A gateway process in figures, for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection
    from apps.stomp.gateway.server import Gateway

PREFIX = "msgweb_gateway"


class Figures:
    """What a gateway has counted, and what it looks like now. A collector of `prometheus_client`.

    Nothing is counted for a message: each connection counts its own, and hands them over when it ends.

    Attributes:
        ended: connections by why they ended: `disconnected`, `closed`, `lost`, or an ERROR's code.
        errors: ERROR frames by their code.
    """

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._sent = self._delivered = 0  # by connections that have ended
        self.ended: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def leave(self, connection: "ClientConnection", reason: str) -> None:
        """A connection has ended."""
        self.ended[reason] += 1
        self._sent += connection.sent
        self._delivered += connection.delivered

    def text(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """See `prometheus_client.registry.Collector`."""
        gateway = self._gateway
        present = list(gateway.connections)
        yield _gauge("up", "Whether the database answers and clients are taken.", int(gateway.ready))
        yield _gauge("congested", "Whether senders are paused since the database lags.", int(gateway.engine.congested))
        yield _gauge(
            "polling", "Whether Postgres's notifications do not arrive, so that it polls.", int(gateway.engine.polling)
        )
        horizon = gateway.engine.horizon
        yield _gauge("horizon_seconds", "For how long VACUUM has been held up.", horizon.seconds)
        yield _gauge("horizon_transactions", "Transactions since what holds VACUUM up.", horizon.transactions)
        listeners = Counter(str(one.listener) for one in present)
        yield _by("connections", "Open connections.", "listener", {**dict.fromkeys(gateway.listening, 0), **listeners})
        paused = Counter(reason for one in present for reason in one.holds)
        yield _by("connections_paused", "Connections that are not read, by why.", "reason", paused)
        yield _gauge("connections_clogged", "Clients that do not read.", sum(one.clogged for one in present))
        yield _gauge("subscriptions", "Subscriptions.", sum(one.subscriptions for one in present))
        yield _gauge("messages_unacked", "Messages that clients hold.", sum(len(one.held) for one in present))
        yield _gauge("bytes_unread", "Bytes that wait for clients to read.", sum(one.unread for one in present))
        yield _total("connections_ended", "Connections that have ended, by why.", "reason", self.ended)
        yield _total("errors", "ERROR frames, by code.", "code", self.errors)
        sent = self._sent + sum(one.sent for one in present)
        delivered = self._delivered + sum(one.delivered for one in present)
        yield CounterMetricFamily(f"{PREFIX}_messages_received", "SEND frames.", value=sent)
        yield CounterMetricFamily(f"{PREFIX}_messages_delivered", "MESSAGE frames.", value=delivered)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _by(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def _total(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family
