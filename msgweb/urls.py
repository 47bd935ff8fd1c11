"""Every page and every endpoint, by app."""

from django.contrib import admin
from django.urls import include, path

admin.autodiscover()  # here, not in each process: a gateway and a worker have no pages

urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include("apps.api.urls")),
    path("taoshop/", include("apps.taoshop.urls")),
    path("firebrand/", include("apps.firebrand.urls")),
    path("", include("apps.console.urls")),
]
