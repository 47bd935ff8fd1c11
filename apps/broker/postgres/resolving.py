"""From the names of queues, topics and reply queues to their ids: the statements, and what their results say."""

from collections.abc import Callable, Iterable, Sequence

from psycopg import pq

from apps.broker.engine import Address, SessionId
from apps.broker.postgres import packing
from apps.broker.postgres.names import read_described
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.pipeline import Step
from apps.broker.postgres.queues import Queue


def unknown(
    operations: Iterable[Operation], unresolved: Iterable[Queue], queue_of: Callable[[Address], Queue]
) -> list[Queue]:
    """Those without an id that the operations send to, and the others that want one."""
    found = {queue.address: queue for queue in unresolved}
    for operation in operations:
        for message in operation.sends:
            if message.address.kind == "queue" and message.address not in found:
                queue = queue_of(message.address)
                if queue.id is None:
                    found[message.address] = queue
    return list(found.values())


def steps(queues: Sequence[Queue], session: SessionId) -> list[Step]:
    """The statements that get or make their ids. They wait briefly for an application that is making one of them."""
    plain = [queue.address for queue in queues if not queue.owned]
    made: list[Step] = [("briefly", ())]
    if plain:
        namespaces, kinds, names = zip(*plain, strict=True)
        columns = [packing.text_array(column) for column in (namespaces, kinds, names)]
        made.append(("resolve", columns))
        made.append(("describe_named", [columns[0], columns[2]]))
    for address in (queue.address for queue in queues if queue.owned):
        made.append(("open_reply_queue", (address.namespace.encode(), address.name.encode(), packing.int4(session))))
    return made


def settle(queues: Sequence[Queue], results: Sequence[pq.abc.PGresult]) -> None:
    """Take ids and settings from the results of `steps`. An id of -1: a reply queue that cannot be."""
    plain = [queue for queue in queues if not queue.owned]
    owned = [queue for queue in queues if queue.owned]
    described = read_described(results[2]) if plain else {}
    for place, queue in enumerate(plain):
        queue.id = packing.unpack_int(results[1].get_value(place, 0))
        if queue.id in described:
            queue.settle(described[queue.id])
    for result, queue in zip(results[len(results) - len(owned) :], owned, strict=True):
        queue.id = packing.unpack_int(result.get_value(0, 0)) if result.ntuples else -1
