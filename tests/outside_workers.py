"""A gateway whose clients work on jobs, on Django's database in the test's process; and its jobs."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from apps.accounts.models import Namespace
from apps.jobs.models import Event, Job
from apps.jobs.stomp_port import JobsTaskPort
from apps.jobs.submit import submit
from apps.stomp.gateway.options import GatewayOptions
from tests import sample_tasks
from tests.installation import until
from tests.stomp_gateway import OTHER_NAMESPACE, SECONDS, Frame, RunningGateway, WireClient

QUEUE = f"/queue/{sample_tasks.by_others.queue}"
FOREVER = 3600.0


@pytest.fixture
def port() -> Iterator[JobsTaskPort]:
    port = JobsTaskPort()
    yield port
    port.close()


class Place(RunningGateway):
    """A gateway on Django's database, with a namespace of its own, whose clients work on jobs."""

    def __init__(self, conninfo: str, port: JobsTaskPort, grace: float) -> None:
        self.namespace = Namespace.objects.create(name=f"samples.t{uuid.uuid4().hex}").name
        Namespace.objects.get_or_create(name=OTHER_NAMESPACE)
        listener = f"stomp://127.0.0.1:0?namespace={self.namespace}"
        super().__init__(conninfo, GatewayOptions(cancel_grace=grace), port, listeners=[listener], jobs=True)


@pytest.fixture
def gateway(transactional_db: None, conninfo: str, port: JobsTaskPort) -> Iterator[Place]:
    """One whose clients keep a job that is cancelled for as long as they like."""
    with Place(conninfo, port, FOREVER) as running:
        yield running


@pytest.fixture
def strict(transactional_db: None, conninfo: str, port: JobsTaskPort) -> Iterator[Place]:
    """One whose clients have next to no time to stop."""
    with Place(conninfo, port, 0.01) as running:
        yield running


class Worker:
    """A consumer of the queue that speaks as any client would, without knowing of attempts."""

    def __init__(
        self,
        gateway: Place,
        version: str = "1.2",
        ack: str = "client-individual",
        listens: bool = True,
        **headers: Any,
    ) -> None:
        self.client: WireClient = gateway.connected(version)
        if listens:
            self.client.confirmed("SUBSCRIBE", destination="/job/control", id="c")
        self.client.confirmed("SUBSCRIBE", destination=QUEUE, id="w", ack=ack, **headers)
        self.version = version

    def next(self) -> Frame:
        """The next message."""
        return self.client.expect("MESSAGE")

    def say(self, message: Frame, event: str, body: Any, **headers: Any) -> None:
        """A word about a job, and its receipt."""
        data = json.dumps(body).encode()
        self.client.confirmed(
            "SEND", data, destination=message["reply-to"], job_event=event, content_type="application/json", **headers
        )

    def ack(self, message: Frame, verdict: str = "ACK", **headers: Any) -> None:
        name = {"1.2": "id"}.get(self.version, "message-id")
        self.client.confirmed(verdict, **{name: message["message-id"]}, subscription="w", **headers)


def ask(at: Place, task: str = "samples.by_others", **arguments: Any) -> Job:
    return submit(at.namespace, task, arguments or ({"order": 7} if task == "samples.by_others" else {}))


def become(job: Job, **attributes: Any) -> None:
    """Wait for a job to be like that."""

    def is_so() -> bool:
        job.refresh_from_db()
        return all(getattr(job, name) == value for name, value in attributes.items())

    try:
        until(is_so, SECONDS, f"the job becomes {attributes}")
    except AssertionError as error:
        raise AssertionError(f"{error}: it is {job.state}, attempt {job.attempt}, {job.error}") from None


def log(job: Job) -> list[str]:
    return [event.data["text"] for event in Event.objects.filter(job=job, kind="log")]
