"""Who asks: a program by its access key, or a person by the console's session."""

from dataclasses import dataclass
from typing import cast

from django.contrib.auth.models import User
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.request import Request

from apps.accounts.models import AccessKey
from apps.accounts.permissions import Access
from apps.accounts.standings import access_of_key, access_of_user
from msgweb.errors import AccessRefused


class NotAuthenticated(AccessRefused):
    """No credentials, or wrong ones."""

    code = "not_authenticated"
    status = 401


@dataclass(frozen=True, slots=True)
class Program:
    """The user of a request that came with an access key.

    Attributes:
        access: what the key may do, and in which namespaces.
    """

    key: AccessKey
    access: Access

    is_authenticated = True
    is_anonymous = False

    @property
    def name(self) -> str:
        """For people: who asked for a job."""
        return self.key.login


class AccessKeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer <login>.<passcode>`."""

    def authenticate(self, request: Request) -> tuple[Program, AccessKey] | None:
        """The key's program; None when no bearer token was sent.

        Raises:
            NotAuthenticated: the token is not right.
        """
        scheme, _, token = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        login, dot, passcode = token.strip().partition(".")
        if not dot:
            raise NotAuthenticated("a bearer token is <login>.<passcode> of an access key")
        try:
            key = AccessKey.authenticate(login, passcode)
        except AccessRefused as error:
            raise NotAuthenticated(error.message) from error
        return Program(key, access_of_key(key)), key

    def authenticate_header(self, request: Request) -> str:
        """The challenge of a 401 answer."""
        return 'Bearer realm="msgweb"'


class ConsoleAuthentication(SessionAuthentication):
    """The console's own session, with Django's protection against cross-site requests."""


class _AccessKeyScheme(OpenApiAuthenticationExtension):
    target_class = AccessKeyAuthentication
    name = "accessKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "<login>.<passcode>",
            "description": "The login and the passcode of an access key, joined by a dot.",
        }


class _ConsoleScheme(OpenApiAuthenticationExtension):
    target_class = ConsoleAuthentication
    name = "consoleSession"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid", "description": "The console's log-in."}


def asker_of(request: Request) -> "Program | User":
    """Who asks; after authentication."""
    return cast("Program | User", request.user)  # REST framework's types know Django's users only


def namespaces_of(asker: "Program | User") -> frozenset[str] | None:
    """The namespaces that they may enter; None is all, for the console's people."""
    return asker.access.namespaces if isinstance(asker, Program) else None


def access_of(asker: "Program | User") -> Access:
    """What they may do to destinations."""
    return asker.access if isinstance(asker, Program) else access_of_user(asker)


def name_of(asker: "Program | User") -> str:
    """Their name, for people."""
    return asker.name if isinstance(asker, Program) else asker.get_username()
