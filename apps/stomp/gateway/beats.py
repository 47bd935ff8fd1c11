"""The heart-beats of one connection, in both directions, on the loop's clock."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from apps.stomp.gateway.errors import BeatMissed
from apps.stomp.protocol import heartbeat

if TYPE_CHECKING:
    from apps.stomp.gateway.connections import ClientConnection


class Beating:
    """When to write a beat, and when silence has lasted too long.

    A client that works on a message may be one that cannot beat meanwhile: PHP has one thread. While it holds
    something, and its listener says so (`Listener.patient`), its silence is not held against it, as long as TCP hears
    of its machine.

    Attributes:
        last_read, last_write: when bytes came and went, in seconds of the loop.
    """

    __slots__ = ("_connection", "_timers", "last_read", "last_write")

    def __init__(self, connection: "ClientConnection") -> None:
        self._connection = connection
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.last_read = self.last_write = 0.0

    def start(self) -> None:
        """From log-in on, as agreed there."""
        connection = self._connection
        beats = connection.core.beats
        self.last_read = self.last_write = connection.loop.time()
        if beats.from_client:
            self._expect(heartbeat.read_deadline(beats.from_client) / 1000)
        if beats.to_client:
            self._beat(heartbeat.write_interval(beats.to_client) / 1000)

    def stop(self) -> None:
        """The connection ends."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _expect(self, seconds: float) -> None:
        connection = self._connection
        now = connection.loop.time()
        excused = connection.holds or (connection.listener.patient and connection.at_work)
        if excused and not connection.vanished:
            self.last_read = now  # it is us who do not read, or the client is at work
        due = self.last_read + seconds
        if now >= due:
            connection.end(BeatMissed(f"nothing came for {seconds:g} seconds, and heart-beats were promised"))
        else:
            self._timers["expect"] = connection.loop.call_at(due, partial(self._expect, seconds))

    def _beat(self, seconds: float) -> None:
        connection = self._connection
        now = connection.loop.time()
        if now >= self.last_write + seconds:
            self.last_write = now
            connection.beat()
        self._timers["beat"] = connection.loop.call_at(self.last_write + seconds, partial(self._beat, seconds))
