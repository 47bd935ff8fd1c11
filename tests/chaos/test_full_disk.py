"""A disk that is really full: of the data, of the log. A tmpfs of a few megabytes takes its place."""

import contextlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.own_postgres import OwnPostgres, own_postgres
from tests.installation import Installation, Postgres
from tests.stomp_gateway import WireClient

__all__ = ["own_postgres"]  # a fixture

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.needs("root")]
ROOM = 40  # megabytes that are left
BODY = 60_000  # bytes


class SmallDisk:
    """A file system of its own in place of a folder of the stopped server's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        aside = folder.with_name(f"{folder.name}.aside")
        folder.rename(aside)
        folder.mkdir()
        owner = aside.stat()
        used = sum(file.stat().st_blocks * 512 for file in aside.rglob("*") if file.is_file())
        size = used // 1024 + ROOM * 1024
        options = f"size={size}k,mode=0700,uid={owner.st_uid},gid={owner.st_gid}"
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False)
        if mounted.returncode:
            folder.rmdir()
            aside.rename(folder)
            pytest.skip("this machine lets nobody mount a file system")
        subprocess.run(["cp", "-a", f"{aside}/.", str(folder)], check=True)
        shutil.rmtree(aside)

    def grow(self) -> None:
        """There is room again."""
        subprocess.run(["mount", "-o", "remount,size=2g", str(self._folder)], check=True)

    def close(self) -> None:
        """Take it away, whoever still uses it."""
        subprocess.run(["umount", "-l", str(self._folder)], check=True)


@contextlib.contextmanager
def gateway_beside(server: OwnPostgres, folder: str, home: Path) -> Iterator[tuple[Installation, SmallDisk]]:
    """A gateway on a server of which this folder has a small disk."""
    with contextlib.ExitStack() as stack, Postgres(server.conninfo).migrated_template() as template:
        installation = Installation(home, Postgres(server.conninfo).on(template.name), template.credentials)
        server.stop()
        disk = SmallDisk(server.data / folder)
        stack.callback(disk.close)
        stack.callback(server.stop)
        server.start()
        with contextlib.closing(installation):
            installation.start("stomp")
            yield installation, disk
        disk.grow()


class Sender:
    """Sends to one queue, one message at a time."""

    def __init__(self, installation: Installation) -> None:
        self._stomp = installation.credentials["stomp"]
        self.receipted: set[bytes] = set()
        self._count = 0
        self._clients: list[WireClient] = []
        self.client = self.logged_in()

    def logged_in(self) -> WireClient:
        """A further client. Fails if it is not let in."""
        client = WireClient(self._stomp["port"])
        self._clients.append(client)
        client.send("CONNECT", accept_version="1.2", login=self._stomp["login"], passcode=self._stomp["passcode"])
        client.expect("CONNECTED")
        return client

    def close(self) -> None:
        """Without a word."""
        for client in self._clients:
            client.close()

    def write(self) -> bytes:
        """Send one; its number."""
        number = b"%d" % self._count
        self._count += 1
        body = number + b" " + os.urandom(BODY)
        head = {"destination": "/queue/full", "persistent": "true", "content_length": len(body)}
        self.client.send("SEND", body, receipt=0, **head)
        return number

    def answer(self, number: bytes) -> str | None:
        """Wait for a message's answer. Returns the ERROR's code and text, and logs in again; None: it was receipted."""
        frame = self.client.read()
        if frame.command == "RECEIPT":
            self.receipted.add(number)
            return None
        self.client = self.logged_in()
        return f"{frame['code']}: {frame['message']}"

    def send(self) -> str | None:
        """Send one, and wait for the answer."""
        return self.answer(self.write())

    def send_until_refused(self) -> str:
        """Until the first ERROR; what it says."""
        while (refusal := self.send()) is None:
            pass
        return refusal

    def send_until_taken(self) -> None:
        """As a client does: again after `unavailable`."""
        while (refusal := self.send()) is not None:
            assert refusal.startswith("unavailable"), refusal

    def check(self) -> None:
        """Every message that has a receipt comes, once."""
        consumer = self.logged_in()
        consumer.send("SUBSCRIBE", id=0, destination="/queue/full", ack="auto")
        seen: Counter[bytes] = Counter()
        while not self.receipted <= seen.keys():
            seen[consumer.expect("MESSAGE").body.partition(b" ")[0]] += 1
        assert set(seen.values()) == {1}


def test_a_full_disk_of_data_refuses_sends_by_name_and_lets_everybody_in(
    own_postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        gateway_beside(own_postgres, "base", tmp_path_factory.mktemp("full")) as (installation, disk),
        contextlib.closing(Sender(installation)) as sender,
    ):
        for _ in range(3):  # each time the next log-in comes at once, and is taken
            refusal = sender.send_until_refused()
            assert refusal.startswith("unavailable: ")
            assert "53100" in refusal
        disk.grow()
        sender.send_until_taken()
        sender.check()
        assert installation.running("stomp")


def test_a_full_disk_of_the_log_loses_no_receipt_and_the_gateway_goes_on(
    own_postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Postgres gives up then, and who sends waits."""
    with (
        gateway_beside(own_postgres, "pg_wal", tmp_path_factory.mktemp("full")) as (installation, disk),
        contextlib.closing(Sender(installation)) as sender,
    ):
        while True:
            number = sender.write()
            while sender.client.silent(0.05) and not own_postgres.ended:
                pass
            if own_postgres.ended:
                break
            assert sender.answer(number) is None
        disk.grow()
        own_postgres.start()
        assert sender.answer(number) is None  # who waited was not cut off
        sender.check()
        assert installation.running("stomp")
