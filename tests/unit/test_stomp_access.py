"""What the gateway remembers of log-ins, and whom it slows."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable

import pytest

from apps.accounts.errors import LoginRefused, TooManyFailures
from apps.accounts.permissions import EVERYTHING, Access
from apps.accounts.standings import Identity, Standing
from apps.stomp.gateway import access
from apps.stomp.gateway.access import (
    HASHES_WAITING,
    KEYS_WAITING,
    MEMORY_SECONDS,
    PROVEN_SECONDS,
    AccountAuthenticator,
    Accounts,
    is_loopback,
    names_of,
)
from apps.stomp.gateway.ports import Credentials, Principal
from msgweb.errors import AccessRefused

KEY = Identity("key", 1, "hash of pass")
USER = Identity("user", 1, "hash of word")
ADDRESS = "192.0.2.1"


class Book:
    """Knows one key and one person, and counts who asks for what."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.gone: set[Identity] = set()
        self.access = Access(frozenset({"a.default", "a.one"}))
        self.now = 0.0

    def by_key(self, login: str, passcode: str) -> Standing | None:
        self.asked.append(f"key {login}")
        assert self.open.wait(10)
        if login != "me":
            return None
        if passcode != "pass" or KEY in self.gone:
            raise LoginRefused("no")
        return self.standing(KEY)

    def by_password(self, login: str, password: str) -> Standing:
        self.asked.append(f"password {login}")
        assert self.open.wait(10)
        if (login, password) != ("ada", "word") or USER in self.gone:
            raise LoginRefused("no")
        return self.standing(USER)

    def by_certificate(self, names: list[str]) -> Standing:
        self.asked.append(f"certificate {names}")
        if "shop-7.example" not in names:
            raise LoginRefused("no")
        return self.standing(KEY)

    def by_name(self, name: str) -> Standing:
        if name != "me":
            raise LoginRefused("no")
        return self.standing(KEY)

    def standings(self, identities: Iterable[Identity]) -> dict[Identity, Standing]:
        self.asked.append("standings")
        return {identity: self.standing(identity) for identity in identities if identity not in self.gone}

    def standing(self, identity: Identity) -> Standing:
        return Standing(identity, "me" if identity == KEY else "ada", "a.default", self.access)


def with_book(work: Callable[[AccountAuthenticator, Book], Awaitable[None]]) -> None:
    async def run() -> None:
        book = Book()
        accounts = Accounts(
            book.by_key,
            book.by_password,
            book.by_certificate,
            book.by_name,
            book.standings,
            lambda name: name in ("a.default", "a.one", "a.closed"),
        )
        authenticator = AccountAuthenticator(accounts, lambda: book.now)
        try:
            await work(authenticator, book)
        finally:
            authenticator.close()

    asyncio.run(run())


def me(book: Book, namespace: str = "a.default") -> Principal:
    return Principal("me", namespace, book.access, identity=KEY)


def test_a_good_key_is_remembered_for_some_seconds() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        for _ in range(3):
            assert await authenticator.authenticate(Credentials("me", "pass", None)) == me(book)
        assert book.asked == ["key me"]
        book.gone.add(KEY)
        book.now = MEMORY_SECONDS - 0.1
        await authenticator.authenticate(Credentials("me", "pass", None))
        book.now = MEMORY_SECONDS + 0.1
        with pytest.raises(AccessRefused):
            await authenticator.authenticate(Credentials("me", "pass", None))

    with_book(work)


def test_a_change_of_access_ends_the_memory_at_once() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        await authenticator.authenticate(Credentials("me", "pass", None))
        book.access = Access(frozenset({"a.default"}), ())
        authenticator.forget()
        assert (await authenticator.authenticate(Credentials("me", "pass", None))).access == book.access

    with_book(work)


def test_what_was_asked_before_a_change_is_not_remembered_after_it() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        book.open.clear()
        asking = asyncio.ensure_future(authenticator.authenticate(Credentials("me", "pass", None)))
        while not book.asked:
            await asyncio.sleep(0)
        authenticator.forget()
        book.open.set()
        await asking
        await authenticator.authenticate(Credentials("me", "pass", None))
        assert len(book.asked) == 2

    with_book(work)


def test_each_host_is_remembered_by_itself() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        assert (await authenticator.authenticate(Credentials("me", "pass", "a.one"))).namespace == "a.one"
        assert (await authenticator.authenticate(Credentials("me", "pass", None))).namespace == "a.default"
        assert (await authenticator.authenticate(Credentials("me", "pass", "localhost"))).namespace == "a.default"
        with pytest.raises(AccessRefused, match=r"a\.closed"):
            await authenticator.authenticate(Credentials("me", "pass", "a.closed"))
        assert authenticator.failures.failed == 0, "the credentials were right"

    with_book(work)


def test_a_listener_says_where_those_are_who_have_no_place_of_their_own() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        everywhere = Standing(USER, "ada", None, EVERYTHING)
        book.standing = lambda identity: everywhere  # type: ignore[method-assign]
        with pytest.raises(AccessRefused, match="host"):
            await authenticator.authenticate(Credentials("ada", "word", None))
        principal = await authenticator.authenticate(Credentials("ada", "word", None, namespace="a.one"))
        assert principal.namespace == "a.one"
        assert (await authenticator.authenticate(Credentials("ada", "word", "a.closed"))).namespace == "a.closed"

    with_book(work)


def test_a_refusal_is_not_remembered() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        for _ in range(2):
            with pytest.raises(AccessRefused):
                await authenticator.authenticate(Credentials("me", "wrong", None))
        assert len(book.asked) == 2

    with_book(work)


def test_many_that_log_in_alike_at_once_ask_once_and_one_that_goes_away_takes_nobody_along() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        book.open.clear()
        askers = [asyncio.ensure_future(authenticator.authenticate(Credentials("me", "pass", None))) for _ in range(50)]
        await asyncio.sleep(0)
        askers[0].cancel()
        await asyncio.sleep(0)
        book.open.set()
        answers = await asyncio.gather(*askers[1:])
        assert set(answers) == {me(book)}
        assert book.asked == ["key me"]

    with_book(work)


def test_a_password_pays_its_hash_once_and_is_then_only_looked_at() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        await authenticator.authenticate(Credentials("ada", "word", None))
        assert book.asked == ["key ada", "password ada"]
        for turn in range(1, 6):
            book.now = turn * (MEMORY_SECONDS + 1)
            await authenticator.authenticate(Credentials("ada", "word", None))
        assert book.asked[2:] == ["standings"] * 5
        book.now += PROVEN_SECONDS - 1
        await authenticator.authenticate(Credentials("ada", "word", None))
        assert book.asked[-1] == "standings", "each log-in makes it last longer"
        book.now += PROVEN_SECONDS + 1
        await authenticator.authenticate(Credentials("ada", "word", None))
        assert book.asked[-1] == "password ada"

    with_book(work)


def test_a_changed_password_counts_no_more() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        await authenticator.authenticate(Credentials("ada", "word", None))
        book.gone.add(USER)
        authenticator.forget()
        with pytest.raises(LoginRefused):
            await authenticator.authenticate(Credentials("ada", "word", None))
        with pytest.raises(LoginRefused):
            await authenticator.authenticate(Credentials("ada", "word", None))
        assert book.asked[-1] == "password ada"

    with_book(work)


def test_hashes_of_one_address_do_not_hold_up_another_nor_keys() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        first = threading.Event()

        def slow(login: str, password: str) -> Standing:
            if login == "guess":
                assert first.wait(10)
                raise LoginRefused("no")
            return book.standing(USER)

        authenticator._accounts = authenticator._accounts._replace(by_password=slow)
        guesses = [
            asyncio.ensure_future(authenticator.authenticate(Credentials("guess", f"{number}", peer=ADDRESS)))
            for number in range(HASHES_WAITING + 5)
        ]
        elsewhere = Credentials("ada", "word", peer="192.0.2.2")
        assert (await authenticator.authenticate(elsewhere)).login == "ada"
        assert (await authenticator.authenticate(Credentials("me", "pass", peer=ADDRESS))).login == "me"
        first.set()
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        assert sum(isinstance(answer, TooManyFailures) for answer in answers) == 5
        assert authenticator._lanes == {}

    with_book(work)


def test_a_flood_of_guesses_from_one_address_takes_one_thread_and_is_bounded() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        working: list[int] = []
        most: list[int] = []
        gate = threading.Event()

        def slow(login: str, passcode: str) -> Standing | None:
            if passcode == "pass":
                return book.standing(KEY)
            working.append(1)
            most.append(len(working))
            assert gate.wait(10)
            working.pop()
            raise LoginRefused("no")

        authenticator._accounts = authenticator._accounts._replace(by_key=slow)
        guesses = [
            asyncio.ensure_future(authenticator.authenticate(Credentials("me", f"{number}", peer=ADDRESS)))
            for number in range(KEYS_WAITING + 50)
        ]
        assert (await authenticator.authenticate(Credentials("me", "pass", peer="192.0.2.2"))).login == "me"
        gate.set()
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        assert max(most) == 1
        assert sum(isinstance(answer, TooManyFailures) for answer in answers) == 50
        assert authenticator.failures.failed == KEYS_WAITING

    with_book(work)


def test_who_fails_often_waits_but_not_who_was_right_before_and_not_those_elsewhere() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        authenticator.failures._sleep = sleep
        await authenticator.authenticate(Credentials("me", "pass", peer=ADDRESS))
        for number in range(6):
            with pytest.raises(LoginRefused):
                await authenticator.authenticate(Credentials("me", f"guess {number}", peer=ADDRESS))
        assert slept == [0.25, 0.5, 1.0]
        count = len(slept)
        book.now = MEMORY_SECONDS + 1
        await authenticator.authenticate(Credentials("me", "pass", peer=ADDRESS))
        await authenticator.authenticate(Credentials("ada", "word", peer="192.0.2.2"))
        assert len(slept) == count
        assert authenticator.failures.failed == 6

    with_book(work)


CERTIFICATE = {
    "subject": ((("countryName", "DE"),), (("commonName", "Shop 7"),)),
    "subjectAltName": (("DNS", "shop-7.example"), ("DNS", "shop-7.example"), ("IP Address", "192.0.2.7")),
}


def test_a_certificate_logs_in_where_no_login_is_given() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        for nothing in (None, ""):
            shown = Credentials(nothing, nothing, peer=ADDRESS, certificate=CERTIFICATE)
            assert (await authenticator.authenticate(shown)).login == "me"
        for refused in (
            Credentials(None, None, peer=ADDRESS),
            Credentials(None, None, peer=ADDRESS, certificate={"subject": ()}),
            Credentials("me", "wrong", peer=ADDRESS, certificate=CERTIFICATE),
        ):
            with pytest.raises(AccessRefused):
                await authenticator.authenticate(refused)

    with_book(work)


def test_a_login_that_reads_like_a_certificate_is_none() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        await authenticator.authenticate(Credentials(None, None, certificate=CERTIFICATE))
        for login in ("shop-7.example", repr(names_of(CERTIFICATE)), "\0".join(names_of(CERTIFICATE))):
            with pytest.raises(LoginRefused):
                await authenticator.authenticate(Credentials(login, "", peer=ADDRESS))

    with_book(work)


def test_the_names_of_a_certificate() -> None:
    assert names_of(CERTIFICATE) == ["shop-7.example", "192.0.2.7", "Shop 7"]
    assert names_of({}) == []


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost.evil.example", False),
    ],
)
def test_nobody_comes_in_without_a_name_but_where_the_listener_says_so_and_from_this_machine(
    address: str, here: bool
) -> None:
    assert is_loopback(address) == here

    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        unnamed = Credentials(None, None, "localhost", peer=address, anonymous="me")
        if here:
            assert await authenticator.authenticate(unnamed) == me(book)
        else:
            with pytest.raises(AccessRefused):
                await authenticator.authenticate(unnamed)
        for refused in (
            Credentials(None, None, peer=address),
            Credentials("me", "wrong", peer=address, anonymous="me"),
            Credentials("me", None, peer=address, anonymous="me"),
            Credentials(None, None, peer="127.0.0.1", anonymous="nobody"),
        ):
            with pytest.raises(AccessRefused):
                await authenticator.authenticate(refused)

    with_book(work)


def test_looking_again_tells_what_has_changed_and_who_is_gone() -> None:
    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        key = await authenticator.authenticate(Credentials("me", "pass", "a.one"))
        user = await authenticator.authenticate(Credentials("ada", "word", None))
        fixed = Principal("anonymous", "a.open")
        assert await authenticator.look_again([key, user, fixed]) == {key: key, user: user, fixed: fixed}
        book.gone.add(USER)
        assert await authenticator.look_again([key, user]) == {key: key}
        book.access = Access(frozenset({"a.default"}))
        assert await authenticator.look_again([key]) == {}, "its namespace is closed to it"

    with_book(work)


def test_behind_a_log_in_that_failed_its_address_rests_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "REST", 1e9)
    monkeypatch.setattr(access, "REST_LIMIT", 3600.0)

    async def work(authenticator: AccountAuthenticator, book: Book) -> None:
        guess = asyncio.create_task(authenticator.authenticate(Credentials("me", "guess", peer=ADDRESS)))
        while not book.asked:
            await asyncio.sleep(0)
        behind = asyncio.create_task(authenticator.authenticate(Credentials("me", "pass", peer=ADDRESS)))
        elsewhere = await authenticator.authenticate(Credentials("me", "pass", peer="198.51.100.7"))
        assert elsewhere.login == "me"
        assert book.asked == ["key me", "key me"]  # who is behind has not been asked about
        assert not guess.done()
        for task in (guess, behind):
            task.cancel()
        await asyncio.gather(guess, behind, return_exceptions=True)
        for task in list(authenticator._asking.values()):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with_book(work)
