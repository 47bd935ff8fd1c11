from django.apps import AppConfig


class MsgwebConfig(AppConfig):
    """The project itself: its commands (`prepare`, `seed_samples`) and its system checks."""

    name = "msgweb"
    label = "msgweb"

    def ready(self) -> None:
        from msgweb import checks  # noqa: F401 -- registers them
