from django.apps import AppConfig


class BrokerConfig(AppConfig):
    name = "apps.broker"
    label = "broker"
    default_auto_field = "django.db.models.BigAutoField"
