"""What the writer needs of the engine: the seam between what goes to the database and what goes to consumers."""

from collections.abc import Sequence
from typing import Protocol

from apps.broker.engine import Companion, Message, SessionId
from apps.broker.postgres.batch import Claimable
from apps.broker.postgres.handover import Handover
from apps.broker.postgres.names import Ready
from apps.broker.postgres.operations import Operation
from apps.broker.postgres.places import Places


class Host(Protocol):
    """What the writer needs of the engine."""

    handover: Handover
    places: Places
    companion: Companion | None

    @property
    def session(self) -> SessionId: ...

    @property
    def peers(self) -> bool:
        """Whether other sessions exist, which want to hear of what became ready."""

    def announce_sends(self, operation: Operation) -> None:
        """What an operation sends was made anew."""

    def claimable(self) -> Claimable: ...

    def wanting(self) -> bool:
        """Whether a consumer here waits for what may be claimed."""

    def hear(self) -> None:
        """Take what others have said until now."""

    def delayed(self) -> None:
        """A message waits for its time."""

    def became_ready(self, found: Sequence[Ready]) -> None:
        """By this process's own doing something became ready in these queues."""

    def publish_locally(self, message: Message) -> None: ...

    async def session_lost(self, before: SessionId) -> None:
        """Void what is held and open another session, unless that has been done."""
