"""Read-only models over the engine's tables, for the catalogue and the admin. The hot path never uses them."""

from django.db import models


class Destination(models.Model):
    """A queue or a topic of a namespace. One with an owner is a reply queue and ends with that session."""

    id = models.IntegerField(primary_key=True)
    namespace = models.CharField(max_length=127)
    kind = models.CharField(max_length=5, choices=[("queue", "queue"), ("topic", "topic")])
    name = models.CharField(max_length=255)
    owner = models.IntegerField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = 'msgweb"."destination'
        ordering = ["namespace", "name"]

    def __str__(self) -> str:
        return f"{self.namespace} /{self.kind}/{self.name}"


class Session(models.Model):
    """A process that holds messages; its row is its lease."""

    id = models.IntegerField(primary_key=True)
    kind = models.CharField(max_length=10)
    host = models.TextField()
    pid = models.IntegerField()
    details = models.JSONField(default=dict)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = 'msgweb"."session'
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.kind} {self.host}:{self.pid}"
