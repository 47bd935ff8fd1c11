"""The console's pages; the event stream under /events is routed in `msgweb.asgi`."""

from django.contrib.auth import views as auth_views
from django.urls import path

from apps.console import health, job_actions, job_pages, pages

app_name = "console"

urlpatterns = [
    path("", pages.overview, name="overview"),
    path(
        "login/",
        auth_views.LoginView.as_view(template_name="console/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("jobs/", job_pages.jobs, name="jobs"),
    path("jobs/<uuid:job_id>/", job_pages.job, name="job"),
    path("jobs/<uuid:job_id>/log.txt", job_pages.job_log, name="job_log"),
    path("jobs/<uuid:job_id>/<str:action>/", job_actions.act, name="job_action"),
    path("jobs/do/", job_actions.act_on_all, name="jobs_action"),
    path("queues/", pages.queues, name="queues"),
    path("topics/", pages.topics, name="topics"),
    path("workers/", pages.workers, name="workers"),
    path("status/<str:token>/", job_pages.status, name="status"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
]
