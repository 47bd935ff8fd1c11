"""The PHP library's examples with keys that may do what the examples need, and nothing else."""

from collections.abc import Callable, Iterator

import pytest

from apps.accounts.models import AccessKey
from msgweb.home import REPOSITORY
from tests.installation import Installation
from tests.programs import Program

pytestmark = pytest.mark.needs("php")

Php = Callable[..., Program]


@pytest.fixture
def php(installation: Installation) -> Iterator[Php]:
    """Start an example with a key that may do that: a pattern and its verb."""
    started: list[Program] = []

    def start(example: str, *arguments: str, may: tuple[str, str]) -> Program:
        login, passcode = f"key-{len(started)}", f"secret-{len(started)}"
        installation.query(
            "INSERT INTO accounts_accesskey (login, passcode_hash, title, default_namespace_id, restricted, created_at)"
            " SELECT %s, %s, 'a test', id, true, now() FROM accounts_namespace WHERE name = 'firebrand.development'",
            (login, AccessKey.hash(passcode)),
        )
        pattern, verb = may
        installation.query(
            "INSERT INTO accounts_permission (key_id, pattern, send, receive, manage)"
            " SELECT id, %s, %s, %s, false FROM accounts_accesskey WHERE login = %s",
            (pattern, verb == "send", verb == "receive", login),
        )
        program = Program(
            ["php", str(REPOSITORY / "clients/php/examples" / example), *arguments],
            {**installation.env, "MSGWEB_LOGIN": login, "MSGWEB_PASSCODE": passcode},
        )
        started.append(program)
        return program

    yield start
    for program in started:
        program.close()


def test_who_may_ask_for_a_task_gets_its_progress_and_its_answer(installation: Installation, php: Php) -> None:
    installation.start()
    installation.wait_ready()
    installation.manage("seed_firebrand", "--name", "Ember", "--slug", "ember", "--products", "20")
    arguments = ("clone_brand.php", "ember", "Ember Nord", "nord.example")
    refused = php(*arguments, may=("task/firebrand.other", "send"))
    assert refused.wait() != 0
    assert "access_refused" in refused.output
    asked = php(*arguments, may=("task/firebrand.clone_brand", "send"))
    assert asked.wait(120) == 0, asked.output + installation.logs()


def test_one_key_sends_and_another_receives(installation: Installation, php: Php) -> None:
    installation.start("stomp")
    worker = php("work_queue.php", "thumbnails", may=("queue/thumbnails", "receive"))
    worker.wait_for("waiting for messages")
    sent = php("send.php", "thumbnails", '{"picture": "a.jpg"}', may=("queue/thumbnails", "send"))
    assert sent.wait() == 0, sent.output
    worker.wait_for("a.jpg")
    for example, verb, refused_verb in (("send.php", "receive", "send to"), ("work_queue.php", "send", "receive from")):
        refused = php(example, "thumbnails", "{}" if example == "send.php" else "1", may=("queue/thumbnails", verb))
        assert refused.wait() != 0
        assert f"may not {refused_verb} /queue/thumbnails" in refused.output, refused.output
