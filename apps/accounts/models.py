"""Namespaces, access keys, permissions, and the log of who changed them."""

import hashlib
import hmac
import re
import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from apps.accounts.errors import LoginRefused
from apps.accounts.permissions import PATTERN_LIMIT, BadPattern, Rule, Verb, validate_pattern

NAMESPACE_PATTERN = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}\.[a-z0-9][a-z0-9_-]{0,62}$")

#: What whoever fails to log in is told: not which part of it was wrong.
WRONG = "the login or the passcode is wrong, or the key was revoked"


class Namespace(models.Model):
    """A world of destinations and jobs of its own: `project.environment`, such as `taoshop.production`.

    What other brokers call a virtual host. A queue `x` in one namespace has nothing to do with `x` in another.
    """

    name = models.CharField(
        max_length=127,
        unique=True,
        validators=[RegexValidator(NAMESPACE_PATTERN, "a namespace is named project.environment, in lower case")],
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


def _limit(help_text: str) -> "models.PositiveIntegerField[int | None, int | None]":
    return models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)], help_text=help_text)


class AccessKey(models.Model):
    """A login and a passcode for a program: STOMP `login`/`passcode`, REST `Authorization: Bearer <login>.<passcode>`.

    The passcode is random (256 bits), so a fast hash of it is safe: a PHP page logs in on each request.
    """

    login = models.CharField(max_length=32, unique=True, editable=False)
    passcode_hash = models.CharField(max_length=64, editable=False)
    title = models.CharField(max_length=100, help_text="Who uses this key, for people.")
    default_namespace = models.ForeignKey(Namespace, on_delete=models.PROTECT, related_name="+")
    namespaces = models.ManyToManyField(
        Namespace, related_name="access_keys", blank=True, help_text="Which others, besides the default, it may enter."
    )
    restricted = models.BooleanField(
        default=False,
        help_text="Only what its permissions say. Otherwise it may do everything in its namespaces.",
    )
    max_connections = _limit("Connections at once; empty: as many as the gateway takes.")
    max_subscriptions = _limit("Subscriptions at once, of all its connections; empty: the gateway's limit.")
    max_sends_per_second = _limit("Messages sent a second; who is quicker is slowed. Empty: no limit.")
    max_unacked = _limit("Messages held unacknowledged at once, of all its connections; empty: no limit.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="From then on it opens nothing.")
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["login"]

    def __str__(self) -> str:
        return f"{self.title} ({self.login})"

    @staticmethod
    def hash(passcode: str) -> str:
        """The stored form of a passcode: SHA-256, in hexadecimal."""
        return hashlib.sha256(passcode.encode()).hexdigest()

    @classmethod
    def issue(cls, title: str, default: Namespace, others: list[Namespace] | None = None) -> tuple["AccessKey", str]:
        """Make a key; its passcode is returned here and never again."""
        key = cls(title=title, default_namespace=default)
        passcode = key.renew_passcode()
        key.save()
        key.namespaces.set(others or [])
        return key, passcode

    def renew_passcode(self) -> str:
        """Draw a passcode (and a login, the first time), to be saved by the caller; returned here and never again."""
        passcode = secrets.token_urlsafe(32)
        self.login = self.login or f"mw{secrets.token_hex(8)}"
        self.passcode_hash = self.hash(passcode)
        return passcode

    @classmethod
    def valid(cls) -> "models.QuerySet[AccessKey]":
        """The keys that are neither revoked nor expired."""
        return cls.objects.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()), revoked_at=None)

    @classmethod
    def authenticate(cls, login: str, passcode: str) -> "AccessKey":
        """The key of that login.

        Raises:
            LoginRefused: unknown, revoked, expired, or the wrong passcode; the message does not say which.
        """
        key = cls.valid().select_related("default_namespace").filter(login=login).first()
        stored = key.passcode_hash if key else cls.hash("")
        if key is None or not hmac.compare_digest(stored, cls.hash(passcode)):
            raise LoginRefused(WRONG)
        return key

    def may_enter(self) -> set[str]:
        """The names of the namespaces that this key opens, its default among them."""
        return {self.default_namespace.name, *(namespace.name for namespace in self.namespaces.all())}


def _check_pattern(pattern: str) -> None:
    try:
        validate_pattern(pattern)
    except BadPattern as error:
        raise ValidationError(error.message) from error


class Permission(models.Model):
    """What a key, a person or a group of people may do to the destinations of a pattern. Permissions only add."""

    key = models.ForeignKey(AccessKey, on_delete=models.CASCADE, null=True, blank=True, related_name="permissions")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, blank=True, related_name="destinations"
    )
    group = models.ForeignKey(Group, on_delete=models.CASCADE, null=True, blank=True, related_name="destinations")
    namespace = models.ForeignKey(
        Namespace,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="Empty: each namespace that the key opens; of a person or a group: each one there is.",
    )
    pattern = models.CharField(
        max_length=PATTERN_LIMIT,
        validators=[_check_pattern],
        help_text="Such as queue/orders.*, topic/news.#, task/firebrand.clone_brand, job/#; ** is everything.",
    )
    send = models.BooleanField(default=False)
    receive = models.BooleanField(default=False)
    manage = models.BooleanField(default=False)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                condition=(
                    Q(key__isnull=False, user=None, group=None)
                    | Q(key=None, user__isnull=False, group=None)
                    | Q(key=None, user=None, group__isnull=False)
                ),
                name="accounts_permission_has_one_holder",
            ),
            models.CheckConstraint(
                condition=Q(send=True) | Q(receive=True) | Q(manage=True), name="accounts_permission_allows_something"
            ),
        ]

    def __str__(self) -> str:
        verbs = ", ".join(sorted(self.rule().verbs))
        return f"{verbs} {self.pattern} in {self.namespace or 'each namespace'}"

    def rule(self) -> Rule:
        """As a value."""
        given = {Verb.SEND: self.send, Verb.RECEIVE: self.receive, Verb.MANAGE: self.manage}
        namespace = self.namespace.name if self.namespace else None
        return Rule(namespace, self.pattern, frozenset(verb for verb in Verb if given[verb]))

    def clean(self) -> None:
        """Check what several fields say together.

        Raises:
            ValidationError: nothing is allowed, or a namespace that the key does not open.
        """
        if not (self.send or self.receive or self.manage):
            raise ValidationError("choose at least one of send, receive and manage")
        if self.key and self.namespace and self.namespace.name not in self.key.may_enter():
            raise ValidationError(f"this key does not open the namespace {self.namespace}")


class ClientCertificate(models.Model):
    """A name in a client's TLS certificate (a subject alternative name or the common name), and who logs in by it."""

    name = models.CharField(max_length=255, unique=True, help_text="Such as shop-7.example.com.")
    key = models.ForeignKey(AccessKey, on_delete=models.CASCADE, null=True, blank=True, related_name="certificates")
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, null=True, blank=True, related_name="certificates"
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(key__isnull=False, user=None) | Q(key=None, user__isnull=False),
                name="accounts_certificate_has_one_holder",
            )
        ]

    def __str__(self) -> str:
        return self.name


class AuditEntry(models.Model):
    """A change of who may do what. Written by triggers (`migrations/sql/0003_audit.sql`), whoever makes the change.

    Attributes:
        actor: who did it, see `apps.accounts.actors`; else the role of the database.
        action: created, changed or deleted.
        kind: of what: access key, permission, namespace of a key, certificate, namespace, user, group of a user, ...
        subject: the thing or whom it concerns, in words.
        changes: {field: value}, or {field: {"from": value, "to": value}}; never a secret.
    """

    at = models.DateTimeField(db_default=Now())
    actor = models.TextField()
    action = models.TextField()
    kind = models.TextField()
    subject = models.TextField()
    changes = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.kind} {self.subject}"

    def rows(self) -> list[tuple[str, Any, Any]]:
        """The changes as (field, before, after); before is None where nothing was."""
        return [
            (name, value["from"], value["to"]) if isinstance(value, dict) and "to" in value else (name, None, value)
            for name, value in sorted(self.changes.items())
        ]
