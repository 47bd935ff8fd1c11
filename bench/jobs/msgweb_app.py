"""Msgweb: one worker with two slots, each a process of its own.

MSGWEB_THREADS  jobs at a time in each slot (default 1)
MSGWEB_ASYNC=1  the no-op is a coroutine

The installation is the one that the environment names (`MSGWEB_HOME`, or `DATABASE_URL`), migrated.
"""

import json
import os
import pathlib
import sys

import psycopg

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))
os.environ["MSGWEB_TASK_MODULES"] = "bench.jobs.tasks"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "msgweb.settings")

import django  # noqa: E402

django.setup()

from django.conf import settings  # noqa: E402

import jobbench  # noqa: E402
from apps.accounts.models import Namespace  # noqa: E402
from apps.jobs.bulk import enqueue_many  # noqa: E402
from apps.jobs.models import Job  # noqa: E402
from apps.jobs.registry import find  # noqa: E402
from msgweb.database import conninfo_of  # noqa: E402

QUEUE = "bench"
NOOP = "bench.breathe" if os.environ.get("MSGWEB_ASYNC") == "1" else "bench.noop"


class Peer(jobbench.Peer):
    def __init__(self):
        self.db = psycopg.connect(conninfo_of(settings.DATABASES["default"]), autocommit=True)
        self.namespace = Namespace.objects.order_by("name").first().name

    def reset(self):
        self.db.execute("TRUNCATE jobs_job, jobs_attempt, jobs_event, jobs_progress CASCADE")
        self.db.execute(
            "DELETE FROM msgweb.message m USING msgweb.destination d WHERE d.id = m.destination AND d.name = %s", [QUEUE]
        )

    def enqueue(self, task, *args):
        names = {"noop": (), "stamp": ("sent_ns",), "doze": ("seconds", "tag")}
        arguments = dict(zip(names[task], args, strict=True))
        find(NOOP if task == "noop" else f"bench.{task}").enqueue(namespace=self.namespace, **arguments)

    def enqueue_many(self, n):
        for at in range(0, n, 10_000):
            enqueue_many(find(NOOP), self.namespace, [{}] * min(10_000, n - at))

    def done(self):
        return self.scalar("SELECT count(*) FROM jobs_job WHERE state = 'succeeded'")

    def states(self):
        found = Job.objects.filter(task="bench.doze").values_list("state", "attempt", "failures")
        return json.loads(json.dumps(list(found)))

    def commands(self):
        threads = os.environ.get("MSGWEB_THREADS", "1")
        manage = str(REPOSITORY / "manage.py")
        return [[sys.executable, manage, "runworker", "--queue", QUEUE, "--slots", "2", "--threads", threads]]
