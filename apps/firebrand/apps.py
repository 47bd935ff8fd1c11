from django.apps import AppConfig


class FirebrandConfig(AppConfig):
    name = "apps.firebrand"
    label = "firebrand"
    default_auto_field = "django.db.models.BigAutoField"
