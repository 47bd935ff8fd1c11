"""The console's pages; the event stream under /events is routed in `msgweb.asgi`."""

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import views as auth_views
from django.urls import path

from apps.console import (
    access_pages,
    connection_pages,
    health,
    job_actions,
    job_pages,
    pages,
    queue_pages,
    schedule_pages,
    worker_actions,
)

app_name = "console"

urlpatterns = [
    path("", pages.overview, name="overview"),
    path(
        "login/",
        auth_views.LoginView.as_view(
            template_name="console/login.html",
            authentication_form=AdminAuthenticationForm,  # staff only: others log in to STOMP
            redirect_authenticated_user=True,
        ),
        name="login",
    ),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("jobs/", job_pages.jobs, name="jobs"),
    path("jobs/<uuid:job_id>/", job_pages.job, name="job"),
    path("jobs/<uuid:job_id>/log.txt", job_pages.job_log, name="job_log"),
    path("jobs/<uuid:job_id>/<str:action>/", job_actions.act, name="job_action"),
    path("jobs/do/", job_actions.act_on_all, name="jobs_action"),
    path("schedules/", schedule_pages.page, name="schedules"),
    path("queues/", pages.queues, name="queues"),
    path("queue/", queue_pages.queue, name="queue"),
    path("topics/", pages.topics, name="topics"),
    path("workers/", pages.workers, name="workers"),
    path("workers/<int:session>/<str:action>/", worker_actions.act, name="worker_action"),
    path("connections/", connection_pages.connections, name="connections"),
    path("connections/trace/", connection_pages.trace, name="trace"),
    path("connections/end/", connection_pages.end, name="connection_end"),
    path("access/", access_pages.keys, name="access_keys"),
    path("access/new/", access_pages.new_key, name="access_key_new"),
    path("access/keys/<str:login>/", access_pages.key_page, name="access_key"),
    path("access/keys/<str:login>/renew/", access_pages.renew, name="access_key_renew"),
    path("access/keys/<str:login>/revoke/", access_pages.revoke, name="access_key_revoke"),
    path("access/keys/<str:login>/permissions/", access_pages.add_permission, name="access_permission_add"),
    path(
        "access/keys/<str:login>/permissions/<int:number>/remove/",
        access_pages.remove_permission,
        name="access_permission_remove",
    ),
    path("access/keys/<str:login>/certificates/", access_pages.add_certificate, name="access_certificate_add"),
    path(
        "access/keys/<str:login>/certificates/<int:number>/remove/",
        access_pages.remove_certificate,
        name="access_certificate_remove",
    ),
    path("access/people/", access_pages.people, name="access_people"),
    path("access/people/<int:number>/remove/", access_pages.remove_from_person, name="access_people_remove"),
    path("access/log/", access_pages.log, name="access_log"),
    path("status/<str:token>/", job_pages.status, name="status"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
]
