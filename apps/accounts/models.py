"""Namespaces and access keys."""

import hashlib
import hmac
import re
import secrets

from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

from msgweb.errors import AccessRefused

NAMESPACE_PATTERN = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}\.[a-z0-9][a-z0-9_-]{0,62}$")


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
    created_at = models.DateTimeField(default=timezone.now, editable=False)
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
    def authenticate(cls, login: str, passcode: str) -> "AccessKey":
        """The key of that login.

        Raises:
            AccessRefused: unknown, revoked, or the wrong passcode; the message does not say which.
        """
        key = cls.objects.select_related("default_namespace").filter(login=login, revoked_at=None).first()
        stored = key.passcode_hash if key else cls.hash("")
        if key is None or not hmac.compare_digest(stored, cls.hash(passcode)):
            raise AccessRefused("the login or the passcode is wrong, or the key was revoked")
        return key

    def may_enter(self) -> set[str]:
        """The names of the namespaces that this key opens, its default among them."""
        return {self.default_namespace.name, *self.namespaces.values_list("name", flat=True)}
