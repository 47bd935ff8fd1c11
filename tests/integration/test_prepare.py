"""`manage.py prepare`: the account, the key and credentials.json."""

import json
import stat
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from pytest_django import Settings

from apps.accounts.models import AccessKey
from apps.firebrand.models import Brand
from apps.jobs.models import Job
from apps.taoshop.models import Product
from msgweb import credentials
from msgweb.home import Listen

pytestmark = pytest.mark.django_db

HTTP, STOMP = Listen("127.0.0.1", 8000), Listen("127.0.0.1", 61613)


def test_what_the_file_says_opens_the_installation(tmp_path: Path) -> None:
    made = credentials.ensure(tmp_path, HTTP, STOMP)
    assert json.loads((tmp_path / "credentials.json").read_text()) == made
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    key = AccessKey.authenticate(made["stomp"]["login"], made["stomp"]["passcode"])
    assert key.may_enter() == {"firebrand.development", "taoshop.development"}
    assert key.default_namespace.name == made["stomp"]["namespace"]
    user = get_user_model().objects.get(username=made["web"]["username"])
    assert user.is_superuser
    assert user.check_password(made["web"]["password"])


def test_the_second_time_nothing_changes(tmp_path: Path) -> None:
    first = credentials.ensure(tmp_path, HTTP, STOMP)
    written = (tmp_path / "credentials.json").stat()
    assert credentials.ensure(tmp_path, HTTP, STOMP) == first
    assert (tmp_path / "credentials.json").stat().st_mtime_ns == written.st_mtime_ns
    assert AccessKey.objects.count() == 1


def test_other_ports_are_taken_over_and_secrets_stay(tmp_path: Path) -> None:
    first = credentials.ensure(tmp_path, HTTP, STOMP)
    moved = credentials.ensure(tmp_path, Listen("0.0.0.0", 9000), Listen("::", 9001))
    assert moved["web"] == {**first["web"], "url": "http://127.0.0.1:9000/"}
    assert moved["stomp"] == {**first["stomp"], "host": "::1", "port": 9001}
    assert json.loads((tmp_path / "credentials.json").read_text()) == moved


def test_a_lost_file_brings_a_new_account_and_key_and_changes_nobodys_password(tmp_path: Path) -> None:
    first = credentials.ensure(tmp_path, HTTP, STOMP)
    (tmp_path / "credentials.json").unlink()
    second = credentials.ensure(tmp_path, HTTP, STOMP)
    assert second["web"]["username"] != first["web"]["username"]
    assert get_user_model().objects.get(username="admin").check_password(first["web"]["password"])
    AccessKey.authenticate(first["stomp"]["login"], first["stomp"]["passcode"])
    AccessKey.authenticate(second["stomp"]["login"], second["stomp"]["passcode"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"web": 1}', "{}"])
def test_a_broken_file_is_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "credentials.json").write_text(text)
    made = credentials.ensure(tmp_path, HTTP, STOMP)
    assert json.loads((tmp_path / "credentials.json").read_text()) == made


def test_the_samples_are_seeded_once_with_one_clone_to_look_at(settings: Settings, tmp_path: Path) -> None:
    settings.MEDIA_ROOT = tmp_path
    credentials.ensure(tmp_path, HTTP, STOMP)
    call_command("seed_samples", stdout=StringIO())
    counts = [model.objects.count() for model in (Brand, Job, Product)]
    assert counts[:2] == [1, 1]
    call_command("seed_samples", stdout=StringIO())
    assert [model.objects.count() for model in (Brand, Job, Product)] == counts
