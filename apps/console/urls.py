"""The console's pages; the event stream under /events is routed in `msgweb.asgi`."""

from django.contrib.auth import views as auth_views
from django.urls import path

from apps.console import health, pages

app_name = "console"

urlpatterns = [
    path("", pages.overview, name="overview"),
    path("login/", auth_views.LoginView.as_view(template_name="console/login.html", redirect_authenticated_user=True), name="login"),
    path("logout/", auth_views.LogoutView.as_view(), name="logout"),
    path("jobs/", pages.overview, name="jobs"),
    path("queues/", pages.queues, name="queues"),
    path("topics/", pages.topics, name="topics"),
    path("workers/", pages.workers, name="workers"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
]
