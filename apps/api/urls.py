"""The REST API's endpoints and its description."""

from django.urls import path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from apps.api import job_actions, views

app_name = "api"

urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path(
        "docs/", SpectacularSwaggerSplitView.as_view(url_name="api:schema", template_name="api/docs.html"), name="docs"
    ),
    path("v1/tasks", views.Tasks.as_view(), name="tasks"),
    path("v1/jobs", views.Jobs.as_view(), name="jobs"),
    path("v1/batches/<uuid:batch_id>", job_actions.BatchDetail.as_view(), name="batch"),
    path("v1/jobs/actions", job_actions.JobActions.as_view(), name="job_actions"),
    path("v1/jobs/<uuid:job_id>", views.waiting(job_actions.JobEdit.as_view()), name="job"),
    path("v1/jobs/<uuid:job_id>/cancel", views.JobCancel.as_view(), name="job_cancel"),
    path("v1/jobs/<uuid:job_id>/retry", job_actions.JobRetry.as_view(), name="job_retry"),
    path("v1/jobs/<uuid:job_id>/hold", job_actions.JobHold.as_view(), name="job_hold"),
    path("v1/jobs/<uuid:job_id>/release", job_actions.JobRelease.as_view(), name="job_release"),
    path("v1/jobs/<uuid:job_id>/rerun", job_actions.JobRerun.as_view(), name="job_rerun"),
    path("v1/jobs/<uuid:job_id>/log", views.JobLog.as_view(), name="job_log"),
    path("v1/namespaces/<str:namespace>/queues", views.Queues.as_view(), name="queues"),
    path(
        "v1/namespaces/<str:namespace>/queues/<path:name>/messages",
        views.Send.as_view(kind="queue"),
        name="send_to_queue",
    ),
    path(
        "v1/namespaces/<str:namespace>/topics/<path:name>/messages",
        views.Send.as_view(kind="topic"),
        name="send_to_topic",
    ),
    re_path("", views.NoSuchEndpoint.as_view()),
]
