from django.apps import AppConfig


class TaoshopConfig(AppConfig):
    name = "apps.taoshop"
    label = "taoshop"
    default_auto_field = "django.db.models.BigAutoField"
