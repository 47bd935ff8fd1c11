"""The endpoints under /api/v1/."""

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, NoReturn, cast

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import NAMESPACE_PATTERN, Namespace
from apps.accounts.permissions import Verb
from apps.api import bodies, problems
from apps.api import serializers as forms
from apps.api.authentication import (
    AccessKeyAuthentication,
    ConsoleAuthentication,
    NotAuthenticated,
    Program,
    access_of,
    asker_of,
    name_of,
    namespaces_of,
)
from apps.broker import catalogue, outbox
from apps.broker.engine import Address, parse_address
from apps.console.feed import feed_of_loop
from apps.jobs import control, registry
from apps.jobs.errors import UnknownJob
from apps.jobs.models import Event, Job
from apps.jobs.submit import submit
from msgweb.errors import AccessRefused, BadRequest, NotFound

#: Seconds that a request may wait for a job to end.
WAIT_LIMIT = 60.0
#: Lines of a log in one answer.
LOG_LIMIT = 1000

PROBLEM = OpenApiResponse(forms.ProblemSerializer, "Problem details (RFC 9457).")


class Endpoint(APIView):
    """What all endpoints share: who may ask, and errors as problem details."""

    authentication_classes = [AccessKeyAuthentication, ConsoleAuthentication]
    permission_classes = [IsAuthenticated]

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        """Problem details for everything."""
        return problems.handle

    def permission_denied(self, request: Request, message: str | None = None, code: str | None = None) -> NoReturn:
        """Say what is missing."""
        if not request.successful_authenticator:
            raise NotAuthenticated("send an access key: Authorization: Bearer <login>.<passcode>")
        raise AccessRefused(message or "that is not allowed")

    def enter(self, namespace: str) -> None:
        """Check that the asker may enter a namespace, and that it exists.

        Raises:
            AccessRefused: the key does not open it.
            NotFound: there is none; said only to those who may know.
        """
        opened = namespaces_of(asker_of(self.request))
        if opened is not None:
            if namespace not in opened:
                raise AccessRefused(f"this key does not open the namespace {namespace!r}")
        elif not NAMESPACE_PATTERN.match(namespace) or not Namespace.objects.filter(name=namespace).exists():
            raise NotFound(f"there is no namespace {namespace!r}")

    def need(self, verb: Verb, namespace: str, destination: str) -> None:
        """Check that the asker may do this to a destination.

        Args:
            destination: as permissions name it: `queue/orders`, `task/firebrand.clone_brand`.

        Raises:
            AccessRefused: they may not.
        """
        access_of(asker_of(self.request)).check(verb, namespace, destination)

    def need_job(self, job: Job) -> None:
        """Check that the asker may change a job: their own, one of a task that they manage, or, for a person with
        Django's permission `jobs.change_job`, any.

        Raises:
            AccessRefused: they may not.
        """
        asker = asker_of(self.request)
        if isinstance(asker, Program) and job.requested_by == asker.name:
            return
        if isinstance(asker, Program) or not asker.has_perm("jobs.change_job"):
            self.need(Verb.MANAGE, job.namespace, f"task/{job.task}")

    def job(self, job_id: uuid.UUID) -> Job:
        """A job that the asker may see.

        Raises:
            UnknownJob: there is none, or none that the asker may see.
        """
        jobs = Job.objects.select_related("progress")
        opened = namespaces_of(asker_of(self.request))
        if opened is not None:
            jobs = jobs.filter(namespace__in=opened)
        found = jobs.filter(id=job_id).first()
        if found is None or not self.sees(found):
            raise UnknownJob(f"there is no job {job_id}")
        return found

    def need_reply_to(self, namespace: str, reply_to: str | None) -> None:
        """Check that the asker may send where an answer would be sent in its place.

        Raises:
            AccessRefused: they may not.
            BadDestination: there can be no such destination.
        """
        # A reply queue's name cannot be guessed: who knows it was told it to answer there.
        if reply_to and not reply_to.startswith("/reply-queue/"):
            self.need(Verb.SEND, namespace, permission_name(parse_address(namespace, reply_to)))

    def sees(self, job: Job) -> bool:
        """Whether a job may be shown: its own, and those of tasks that it receives or manages, to a program."""
        asker = asker_of(self.request)
        if not isinstance(asker, Program) or job.requested_by == asker.name:
            return True
        return any(asker.access.allows(verb, job.namespace, f"task/{job.task}") for verb in (Verb.RECEIVE, Verb.MANAGE))


def permission_name(address: Address) -> str:
    """How permissions name a queue or a topic."""
    return f"{address.kind}/{address.name}"


class Send(Endpoint):
    """Send to a queue or a topic; `kind` says which."""

    kind = "queue"

    @extend_schema(
        summary="Send a message",
        description=(
            "With `Content-Type: application/json` the body is an envelope; with any other content type it is the "
            "message itself, and the content type its `content-type` header."
        ),
        request={"application/json": forms.MessageSerializer, "*/*": {"type": "string", "format": "binary"}},
        parameters=[
            OpenApiParameter("persistent", bool, description="For a body that is the message itself."),
            OpenApiParameter("priority", int, description="For a body that is the message itself."),
        ],
        responses={201: forms.SentSerializer, (403, problems.MEDIA_TYPE): PROBLEM, (413, problems.MEDIA_TYPE): PROBLEM},
    )
    def post(self, request: Request, namespace: str, name: str) -> Response:
        """One message; the answer comes when it is durable, as asked."""
        self.enter(namespace)
        destination = f"/{self.kind}/{name}"
        self.need(Verb.SEND, namespace, permission_name(parse_address(namespace, destination)))
        content_type = request.content_type or "application/octet-stream"
        if content_type.partition(";")[0].strip().lower() == "application/json":
            message = _enveloped(bodies.read_json(request))
        else:
            message = _bare(bodies.read(request), content_type, request)
        message_id = outbox.send(namespace, destination, **message)
        answer = {
            "id": None if message_id is None else str(message_id),
            "namespace": namespace,
            "destination": destination,
        }
        return Response(forms.SentSerializer(answer).data, status=201)


def _enveloped(envelope: dict[str, Any]) -> dict[str, Any]:
    form = forms.MessageSerializer(data=envelope)
    form.is_valid(raise_exception=True)
    given = form.validated_data
    if "body_base64" in given and "body" in envelope:
        raise BadRequest("give either body or body_base64")
    if "body_base64" in given:
        try:
            body = base64.b64decode(given["body_base64"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadRequest("body_base64 is not base 64") from error
        default_type = "application/octet-stream"
    elif "body" not in envelope:
        raise BadRequest("the envelope has no body")
    elif isinstance(envelope["body"], str):
        body, default_type = _utf8(envelope["body"]), "text/plain;charset=utf-8"
    else:
        body, default_type = _utf8(json.dumps(envelope["body"], ensure_ascii=False)), "application/json"
    headers = dict(given["headers"])
    own_type = {name: headers.pop(name) for name in list(headers) if name.lower() == "content-type"}
    return {
        "body": body,
        "headers": headers,
        "content_type": given.get("content_type") or next(iter(own_type.values()), default_type),
        "persistent": given["persistent"],
        "priority": given["priority"],
    }


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest("a text holds half a surrogate pair") from error


def _bare(body: bytes, content_type: str, request: Request) -> dict[str, Any]:
    persistent = request.query_params.get("persistent", "true").lower()
    priority = request.query_params.get("priority", "4")
    if persistent not in ("true", "false"):
        raise BadRequest(f"persistent is true or false, not {persistent!r}")
    if not (priority.isascii() and priority.isdigit() and len(priority) == 1):
        raise BadRequest(f"a priority is 0 to 9, not {priority!r}")
    return {
        "body": body,
        "content_type": content_type,
        "persistent": persistent == "true",
        "priority": int(priority),
    }


class Queues(Endpoint):
    """The queues of a namespace."""

    @extend_schema(summary="List the queues", responses={200: forms.QueuesSerializer})
    def get(self, request: Request, namespace: str) -> Response:
        """All queues that the asker may do anything to, with what waits in them."""
        self.enter(namespace)
        asker = asker_of(request)
        found = [
            asdict(queue)
            for queue in catalogue.queues(namespace)
            if not isinstance(asker, Program)
            or any(asker.access.allows(verb, namespace, f"queue/{queue.name}") for verb in Verb)
        ]
        return Response(forms.QueuesSerializer({"queues": found}).data)


class Tasks(Endpoint):
    """What can be asked for."""

    @extend_schema(summary="List the tasks", responses={200: forms.TasksSerializer})
    def get(self, request: Request) -> Response:
        """All tasks, with their parameters."""
        return Response(forms.TasksSerializer({"tasks": registry.all_tasks()}).data)


class Jobs(Endpoint):
    """Ask for jobs."""

    @extend_schema(
        summary="Ask for a job",
        request=forms.SubmitSerializer,
        examples=[
            OpenApiExample(
                "A clone of the sample brand",
                {
                    "namespace": "firebrand.development",
                    "task": "firebrand.clone_brand",
                    "arguments": {"brand": "ember-oak", "name": "Fjord & Pine", "domain": "fjord-pine.example"},
                },
                request_only=True,
            )
        ],
        responses={
            201: forms.JobSerializer,
            200: OpenApiResponse(forms.JobSerializer, "It was asked for before, with this id."),
            (400, problems.MEDIA_TYPE): PROBLEM,
            (409, problems.MEDIA_TYPE): PROBLEM,
        },
    )
    def post(self, request: Request) -> Response:
        """A job; the `Location` header says where it is followed."""
        asked = bodies.read_json(request)
        asker = asker_of(request)
        if isinstance(asker, Program):
            asked.setdefault("namespace", asker.key.default_namespace.name)
        form = forms.SubmitSerializer(data=asked)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        self.enter(given["namespace"])
        self.need(Verb.SEND, given["namespace"], f"task/{given['task']}")
        self.need_reply_to(given["namespace"], given.get("reply_to"))
        job_id: uuid.UUID | None = given.get("id")
        for other in given.get("after", ()):
            self.job(other)  # its result may be handed on: it must be one that the asker may see
        # The id of a job in a namespace that this key does not open is taken, but its job is not shown.
        known = job_id is not None and Job.objects.filter(id=job_id).exists()
        job = submit(
            given["namespace"],
            given["task"],
            asked.get("arguments", {}),  # as they came: the serializer would turn keys and values about
            job_id=job_id,
            reply_to=given.get("reply_to"),
            correlation_id=given.get("correlation_id"),
            wants_progress=given["wants_progress"],
            requested_by=name_of(asker),
            hold=given["hold"],
            **{
                name: given[name]
                for name in ("priority", "delay", "run_at", "expires", "after", "result_as")
                if given.get(name) is not None
            },
        )
        data = forms.JobSerializer(self.job(job.id)).data
        return Response(data, status=200 if known else 201, headers={"Location": data["url"]})


class JobDetail(Endpoint):
    """One job."""

    @extend_schema(
        summary="Look at a job, or wait for its end",
        parameters=[
            OpenApiParameter(
                "wait", float, description="Answer when the job has ended, or after so many seconds (0 to 60)."
            )
        ],
        responses={200: forms.JobSerializer, (404, problems.MEDIA_TYPE): PROBLEM},
    )
    def get(self, request: Request, job_id: uuid.UUID) -> Response:
        """The job as it is."""
        wait_of(request.query_params.get("wait"))
        return Response(forms.JobSerializer(self.job(job_id)).data)


def wait_of(text: str | None) -> float:
    """Seconds, from the query.

    Raises:
        BadRequest: it is no number from 0 to WAIT_LIMIT.
    """
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= WAIT_LIMIT:
        raise BadRequest(f"wait is a number of seconds from 0 to {WAIT_LIMIT:.0f}, not {text!r}")
    return seconds


def waiting(view: Callable[..., HttpResponseBase]) -> Callable[..., Coroutine[Any, Any, HttpResponseBase]]:
    """Let the answer of `JobDetail` wait for the job's end, at next to no cost.

    The view itself runs before and after, as every view does. In between nothing is held but this coroutine and the
    request's idle thread: the process's one LISTEN connection wakes all who wait, and the request's own database
    connection is given back.
    """
    ask = sync_to_async(cast("Callable[..., Response]", view))

    async def wait_and_answer(request: HttpRequest, job_id: uuid.UUID) -> Response:
        response = await ask(request, job_id=job_id)
        seconds = float(request.GET.get("wait") or 0) if response.status_code == 200 else 0
        if seconds and request.method == "GET" and not response.data["final"]:
            await sync_to_async(_give_back_connection)()
            await feed_of_loop().wait_final(job_id, seconds)
            response = await ask(request, job_id=job_id)
        return response

    # What the generator of the OpenAPI description and Django look for in a class-based view.
    wait_and_answer.cls = view.cls  # type: ignore[attr-defined]
    wait_and_answer.initkwargs = view.initkwargs  # type: ignore[attr-defined]
    wait_and_answer.csrf_exempt = True  # type: ignore[attr-defined]  # ConsoleAuthentication checks it
    return wait_and_answer


def _give_back_connection() -> None:
    if not connection.in_atomic_block:
        connection.close()


class JobCancel(Endpoint):
    """Stop a job."""

    @extend_schema(
        summary="Cancel a job",
        request=None,
        responses={
            200: OpenApiResponse(forms.JobSerializer, "It is cancelled."),
            202: OpenApiResponse(forms.JobSerializer, "It runs, and was asked to stop."),
            (404, problems.MEDIA_TYPE): PROBLEM,
            (409, problems.MEDIA_TYPE): PROBLEM,
        },
    )
    def post(self, request: Request, job_id: uuid.UUID) -> Response:
        """To cancel twice is to cancel once; a job that has ended otherwise is a conflict."""
        self.need_job(self.job(job_id))
        control.cancel(job_id, by=name_of(asker_of(request)))
        job = self.job(job_id)
        return Response(forms.JobSerializer(job).data, status=200 if job.is_final else 202)


class JobLog(Endpoint):
    """What a job said."""

    @extend_schema(
        summary="Read a job's log",
        parameters=[
            OpenApiParameter("after", int, description="Lines after the one with this id; 0 is from the beginning."),
            OpenApiParameter("limit", int, description=f"How many lines, 1 to {LOG_LIMIT}."),
        ],
        responses={200: forms.LogSerializer, (404, problems.MEDIA_TYPE): PROBLEM},
    )
    def get(self, request: Request, job_id: uuid.UUID) -> Response:
        """Its lines, oldest first."""
        job = self.job(job_id)
        after = _number(request, "after", 0, 2**63 - 1, 0)
        limit = _number(request, "limit", 1, LOG_LIMIT, LOG_LIMIT)
        rows = Event.objects.filter(job_id=job.id, kind=Event.Kind.LOG, id__gt=after).order_by("id")
        found = list(rows[: limit + 1])
        lines = [
            {
                "id": event.id,
                "at": event.at,
                "level": event.data.get("level", "info"),
                "text": event.data.get("text", ""),
            }
            for event in found[:limit]
        ]
        answer = {"lines": lines, "after": lines[-1]["id"] if lines else after, "more": len(found) > limit}
        return Response(forms.LogSerializer(answer).data)


def _number(request: Request, name: str, lowest: int, highest: int, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20) or not lowest <= int(text) <= highest:
        raise BadRequest(f"{name} is a number from {lowest} to {highest}, not {text!r}")
    return int(text)


class NoSuchEndpoint(Endpoint):
    """Whatever else is asked for below /api/."""

    authentication_classes = []
    permission_classes = []
    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse every method.

        Raises:
            NotFound: always.
        """
        raise NotFound(f"there is no {request.path}; see /api/docs/")
