"""The shop's pages."""

from django.urls import path

from apps.taoshop import views

app_name = "taoshop"

urlpatterns = [
    path("", views.checkout, name="checkout"),
    path("thanks/<uuid:token>/", views.thanks, name="thanks"),
    path("orders/", views.orders, name="orders"),
]
