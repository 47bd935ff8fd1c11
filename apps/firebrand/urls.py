"""The addresses below /firebrand/. A brand's slug is never `media` (see `requests.RESERVED`)."""

from django.urls import path

from apps.firebrand import views

app_name = "firebrand"

urlpatterns = [
    path("", views.brands, name="brands"),
    path("media/<path:path>", views.media, name="media"),
    path("<slug:slug>/", views.brand, name="brand"),
    path("<slug:slug>/remove/", views.remove, name="remove"),
    path("<slug:slug>/theme.css", views.theme, name="theme"),
    path("<slug:slug>/c/<int:pk>/", views.category, name="category"),
    path("<slug:slug>/p/<int:pk>/", views.product, name="product"),
    path("<slug:slug>/pages/<slug:page>/", views.page, name="page"),
]
