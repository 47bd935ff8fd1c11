"""Which queues get what is sent to a topic: durable subscriptions and the consumers of virtual topics."""

from collections.abc import Sequence

from apps.broker.engine import Address
from apps.broker.patterns import PatternTrie


class Bindings:
    """What a process knows of the table `msgweb.binding`; each batch checks that it is the present state."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, str, str]] = []
        self._by_namespace: dict[str, PatternTrie[Address]] = {}

    def load(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Take over the table: namespace, pattern, queue's name."""
        self._by_namespace = {}
        self._rows = []
        for row in rows:
            self.add(*row)

    def add(self, namespace: str, pattern: str, queue: str) -> None:
        """One more; twice the same is no harm."""
        self._rows.append((namespace, pattern, queue))
        self._by_namespace.setdefault(namespace, PatternTrie()).add(pattern, Address(namespace, "queue", queue))

    def drop(self, namespace: str, queue: str) -> None:
        """A queue gets nothing any more."""
        rows = [row for row in self._rows if (row[0], row[2]) != (namespace, queue)]
        self.load(rows)

    def queues_for(self, namespace: str, topic: str) -> Sequence[Address]:
        """The queues that get what is sent to a topic, each once."""
        trie = self._by_namespace.get(namespace)
        return tuple(dict.fromkeys(trie.lookup(topic))) if trie is not None else ()
