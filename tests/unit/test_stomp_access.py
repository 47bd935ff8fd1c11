"""What the gateway remembers of log-ins."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from apps.stomp.gateway.access import MEMORY_SECONDS, KeyAuthenticator
from apps.stomp.gateway.ports import Credentials, Principal
from msgweb.errors import AccessRefused


class Book:
    """Knows one key, and counts who asks."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.revoked = False
        self.now = 0.0

    def look_up(self, credentials: Credentials) -> Principal:
        self.asked.append(credentials.login or "")
        assert self.open.wait(10)
        if (credentials.login, credentials.passcode) != ("me", "pass") or self.revoked:
            raise AccessRefused("no")
        return Principal("me", credentials.host or "a.default")


def with_book(work: Callable[[KeyAuthenticator, Book], Awaitable[None]]) -> None:
    async def run() -> None:
        book = Book()
        authenticator = KeyAuthenticator(book.look_up, lambda: book.now)
        try:
            await work(authenticator, book)
        finally:
            authenticator.close()

    asyncio.run(run())


def test_a_good_key_is_remembered_for_some_seconds() -> None:
    async def work(authenticator: KeyAuthenticator, book: Book) -> None:
        for _ in range(3):
            assert await authenticator.authenticate(Credentials("me", "pass", None)) == Principal("me", "a.default")
        assert book.asked == ["me"]
        book.revoked = True
        book.now = MEMORY_SECONDS - 0.1
        await authenticator.authenticate(Credentials("me", "pass", None))
        book.now = MEMORY_SECONDS + 0.1
        with pytest.raises(AccessRefused):
            await authenticator.authenticate(Credentials("me", "pass", None))

    with_book(work)


def test_each_host_is_remembered_by_itself() -> None:
    async def work(authenticator: KeyAuthenticator, book: Book) -> None:
        assert (await authenticator.authenticate(Credentials("me", "pass", "a.one"))).namespace == "a.one"
        assert (await authenticator.authenticate(Credentials("me", "pass", "a.two"))).namespace == "a.two"
        assert (await authenticator.authenticate(Credentials("me", "pass", None))).namespace == "a.default"

    with_book(work)


def test_a_refusal_is_not_remembered() -> None:
    async def work(authenticator: KeyAuthenticator, book: Book) -> None:
        for _ in range(2):
            with pytest.raises(AccessRefused):
                await authenticator.authenticate(Credentials("me", "wrong", None))
        assert len(book.asked) == 2

    with_book(work)


def test_many_that_log_in_alike_at_once_ask_once_and_one_that_goes_away_takes_nobody_along() -> None:
    async def work(authenticator: KeyAuthenticator, book: Book) -> None:
        book.open.clear()
        askers = [asyncio.ensure_future(authenticator.authenticate(Credentials("me", "pass", None))) for _ in range(50)]
        await asyncio.sleep(0)
        askers[0].cancel()
        await asyncio.sleep(0)
        book.open.set()
        answers = await asyncio.gather(*askers[1:])
        assert set(answers) == {Principal("me", "a.default")}
        assert book.asked == ["me"]

    with_book(work)
