from django.apps import AppConfig


class StompConfig(AppConfig):
    name = "apps.stomp"
    label = "stomp"
    default_auto_field = "django.db.models.BigAutoField"
