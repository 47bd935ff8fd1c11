"""What the writer needs of the engine: the seam between what goes to the database and what goes to consumers."""

from collections.abc import Sequence
from typing import Protocol

from apps.broker.engine import Address, Companion, Message, MessageId, SessionId
from apps.broker.postgres.batch import Claimable
from apps.broker.postgres.handover import Handover
from apps.broker.postgres.names import Described, Ready
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.queues import Queue


class Host(Protocol):
    """What the writer needs of the engine."""

    handover: Handover
    companion: Companion | None

    @property
    def session(self) -> SessionId: ...

    @property
    def peers(self) -> bool:
        """Whether other sessions exist, which want to hear of what became ready."""

    def queue(self, address: Address) -> Queue: ...

    def announce_sends(self, operation: Operation) -> None:
        """What an operation sends was made anew."""

    def forget(self, queue: Queue) -> None:
        """A queue that this process need not remember."""

    def unresolved(self) -> list[Queue]:
        """Local queues and reply queues that have no id yet."""

    def resolved(self) -> None:
        """Ids have come."""

    def claimable(self) -> Claimable: ...

    def wanting(self) -> bool:
        """Whether a consumer here waits for what may be claimed."""

    def hear(self) -> None:
        """Take what others have said until now."""

    @property
    def version(self) -> int:
        """The state of the catalogue that is known."""

    def known_ids(self) -> list[int]:
        """The destinations whose settings are to be known."""

    def relearn(self, version: int, described: dict[int, Described], bindings: list[tuple[str, str, str]]) -> None:
        """The catalogue as it is now: what was known and is not described is gone."""

    @property
    def consumes(self) -> bool:
        """Whether anybody here consumes from a queue."""

    def bound(self, namespace: str, pattern: str, queue: str) -> None:
        """From now on the queue gets what is sent to these topics."""

    def unbound(self, namespace: str, queue: str) -> None:
        """The queue gets nothing from topics any more."""

    def lower(self, message_id: MessageId) -> list[Queue]:
        """Something becomes ready from this id on, in any of the queues that are consumed here: those."""

    def delayed(self) -> None:
        """A message waits for its time."""

    def became_ready(self, found: Sequence[Ready]) -> None:
        """By this process's own doing something became ready in these queues."""

    def publish_locally(self, message: Message) -> None: ...

    def held(self) -> set[MessageId]: ...

    async def session_lost(self, before: SessionId) -> None:
        """Void what is held and open another session, unless that has been done."""
