"""What may be done with jobs: /api/v1/jobs/<id>/retry and its kin, and /api/v1/jobs/actions for many."""

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from apps.accounts.permissions import Verb
from apps.api import bodies, problems
from apps.api import serializers as forms
from apps.api.authentication import asker_of, name_of, namespaces_of
from apps.api.views import PROBLEM, Endpoint, JobDetail
from apps.jobs import control
from apps.jobs.errors import UnknownBatch
from apps.jobs.flows import progress_of
from apps.jobs.models import Batch, Job
from apps.jobs.selection import Selection, apply
from msgweb.errors import AccessRefused, BadRequest

ANSWERS: dict[Any, Any] = {
    200: forms.JobSerializer,
    (404, problems.MEDIA_TYPE): PROBLEM,
    (409, problems.MEDIA_TYPE): PROBLEM,
}
CONDITIONS = ("ids", "state", "task", "queue", "namespace", "batch", "error", "held", "before", "after")


class JobAction(Endpoint):
    """Something that is done with one job."""

    def allowed(self, job_id: uuid.UUID) -> str:
        """Check that the asker may do it; who that is.

        Raises:
            UnknownJob: there is none that the asker may see.
            AccessRefused: the asker may not.
        """
        self.need_job(self.job(job_id))
        return name_of(asker_of(self.request))

    def answer(self, job_id: uuid.UUID, status: int = 200) -> Response:
        """The job as it is now."""
        data = forms.JobSerializer(self.job(job_id)).data
        return Response(data, status=status, headers={"Location": data["url"]})


class JobRetry(JobAction):
    """Try a job again."""

    @extend_schema(summary="Try a job again", request=None, responses=ANSWERS)
    def post(self, request: Request, job_id: uuid.UUID) -> Response:
        """One that failed, was cancelled or expired, with all its attempts anew; or one that waits for its next one."""
        return self.answer(control.retry(job_id, self.allowed(job_id)).id)


class JobHold(JobAction):
    """Hold a job back."""

    @extend_schema(summary="Hold a job back", request=None, responses=ANSWERS)
    def post(self, request: Request, job_id: uuid.UUID) -> Response:
        """It does not begin until it is released."""
        return self.answer(control.hold(job_id, self.allowed(job_id)).id)


class JobRelease(JobAction):
    """Let a held job go on."""

    @extend_schema(summary="Release a job that is held", request=None, responses=ANSWERS)
    def post(self, request: Request, job_id: uuid.UUID) -> Response:
        """It begins as soon as it may."""
        return self.answer(control.release(job_id, self.allowed(job_id)).id)


class JobRerun(JobAction):
    """The same again, as a new job."""

    @extend_schema(
        summary="Run a job again, as another",
        request=forms.RerunSerializer,
        responses={201: forms.JobSerializer, (400, problems.MEDIA_TYPE): PROBLEM, (404, problems.MEDIA_TYPE): PROBLEM},
    )
    def post(self, request: Request, job_id: uuid.UUID) -> Response:
        """With other arguments, if the body has some."""
        by = self.allowed(job_id)
        job = self.job(job_id)
        self.need(Verb.SEND, job.namespace, f"task/{job.task}")
        asked = bodies.read_json(request) if int(request.META.get("CONTENT_LENGTH") or 0) else {}
        forms.RerunSerializer(data=asked).is_valid(raise_exception=True)
        return self.answer(control.rerun(job_id, by, arguments=asked.get("arguments")).id, status=201)


class JobEdit(JobDetail, JobAction):
    """A job, to look at and to change."""

    @extend_schema(summary="Edit a job that waits", request=forms.EditSerializer, responses=ANSWERS)
    def patch(self, request: Request, job_id: uuid.UUID) -> Response:
        """What is left out stays."""
        by = self.allowed(job_id)
        asked = bodies.read_json(request)
        form = forms.EditSerializer(data=asked)
        form.is_valid(raise_exception=True)
        given = dict(form.validated_data)
        if "arguments" in given:
            given["arguments"] = asked["arguments"]  # as they came
        if "queue" in given:
            self.need(Verb.SEND, self.job(job_id).namespace, f"queue/{given['queue']}")
        arguments = given.pop("arguments", None)
        return self.answer(control.edit(job_id, by, control.Changes(**given), arguments=arguments).id)


class JobActions(Endpoint):
    """Something that is done with all jobs that match."""

    @extend_schema(
        summary="Do something with all jobs that match",
        request=forms.BulkSerializer,
        responses={200: OpenApiResponse(forms.BulkDoneSerializer), (400, problems.MEDIA_TYPE): PROBLEM},
    )
    def post(self, request: Request) -> Response:
        """A transaction for each job: what one refuses stops none. At most 1,000 jobs a call. Jobs that the asker may
        not change are passed over."""
        asker = asker_of(request)
        asked = bodies.read_json(request)
        form = forms.BulkSerializer(data=asked)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        conditions = {name: given[name] for name in CONDITIONS if given.get(name) is not None}
        if not conditions:
            raise BadRequest(f"say which jobs: give at least one of {', '.join(CONDITIONS)}")
        if "namespace" in conditions:
            self.enter(conditions["namespace"])
        changes = control.Changes(**given["changes"]) if "changes" in given else None
        opened = namespaces_of(asker)
        selection = Selection(**conditions, namespaces=None if opened is None else sorted(opened))
        done = apply(
            *(given["action"], selection, name_of(asker)),
            changes=changes,
            most=given["limit"],
            beyond=given.get("beyond"),
            may=lambda job: self._may(job, given["action"], None if changes is None else changes.queue),
        )
        answer = {"done": done.done, "refused": done.refused, "reasons": done.reasons, "next": done.last}
        return Response(forms.BulkDoneSerializer(answer).data)

    def _may(self, job: Job, action: str, to_queue: str | None) -> bool:
        try:
            self.need_job(job)
            if to_queue is not None:
                self.need(Verb.SEND, job.namespace, f"queue/{to_queue}")
            if action == "rerun":
                self.need(Verb.SEND, job.namespace, f"task/{job.task}")
        except AccessRefused:
            return False
        return self.sees(job)


class BatchDetail(Endpoint):
    """Jobs that belong together."""

    @extend_schema(
        summary="Look at a batch of jobs",
        responses={200: forms.BatchSerializer, (404, problems.MEDIA_TYPE): PROBLEM},
    )
    def get(self, request: Request, batch_id: uuid.UUID) -> Response:
        """How far it is, as a whole. Shown to who may see its jobs."""
        found = progress_of(batch_id)
        opened = namespaces_of(asker_of(request))
        first = Job.objects.filter(batch=batch_id).first()
        namespace = Batch.objects.get(id=batch_id).namespace
        if (opened is not None and namespace not in opened) or (first is not None and not self.sees(first)):
            raise UnknownBatch(f"there is no batch {batch_id}")
        return Response(forms.BatchSerializer(found).data)
