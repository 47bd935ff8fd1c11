"""A gateway whose clients work on jobs, on Django's database in the test's process; and its jobs."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from apps.accounts.models import Namespace
from apps.jobs.models import Job
from apps.jobs.stomp_port import JobsTaskPort
from apps.jobs.submit import submit
from apps.stomp.gateway.options import GatewayOptions
from tests import sample_tasks
from tests.installation import until
from tests.stomp_gateway import OTHER_NAMESPACE, SECONDS, RunningGateway

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
