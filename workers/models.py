"""What people want of workers. A row is the latest word; the worker hears of it, and looks every few seconds."""

from django.db import models
from django.utils import timezone


class Order(models.Model):
    """The latest order to a worker; each part that is null changes nothing.

    Attributes:
        session: the worker, by its session.
        stop: it drains, and ends.
        by: who gave it, for people.
    """

    session = models.BigIntegerField(primary_key=True)
    slots = models.IntegerField(null=True, blank=True)
    paused = models.BooleanField(null=True, blank=True)
    stop = models.BooleanField(default=False)
    by = models.CharField(max_length=200, blank=True, default="")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["session"]

    def __str__(self) -> str:
        return f"to worker {self.session}"
