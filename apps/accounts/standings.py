"""Log-in, and what became of it since: who somebody is and what they may do now.

A `Standing` holds its `Identity`: whom it is about and what they proved. As long as what they proved is still so (the
passcode, the password, the certificate's name, all unchanged; not revoked, expired or deactivated), `standings` tells
what they may do now.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.models import User
from django.db.models import Prefetch, QuerySet

from apps.accounts.errors import LoginRefused
from apps.accounts.models import WRONG, AccessKey, ClientCertificate, Permission
from apps.accounts.permissions import EVERYTHING, Access, Rule, Verb

#: The proof of those who come in without one, because a listener says so.
UNPROVEN = "none"

#: Django's permission with which a person may ask for any job in the console and the API: here too, and to send.
SEND_ANYWHERE = "jobs.add_job"


class Identity(NamedTuple):
    """Whom a log-in is about, and what they proved.

    Attributes:
        proof: a digest of the stored hash that their secret had; or the name in their certificate; or UNPROVEN.
    """

    kind: Literal["key", "user"]
    id: int
    proof: str


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What an access key may use at once, of all its connections; None: no limit of its own."""

    connections: int | None = None
    subscriptions: int | None = None
    sends_per_second: int | None = None
    unacked: int | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Standing:
    """Somebody who may come in.

    Attributes:
        login: the key's login or the user's name.
        namespace: where they are if they do not say; None: they have to say.
    """

    identity: Identity
    login: str
    namespace: str | None
    access: Access
    limits: KeyLimits = NO_LIMITS


def log_in_by_key(login: str, passcode: str) -> Standing | None:
    """By an access key; None: no key has that login.

    Raises:
        LoginRefused: see `AccessKey.authenticate`.
    """
    if "\0" in login:
        raise LoginRefused(WRONG)
    if not AccessKey.objects.filter(login=login).exists():
        return None
    key = AccessKey.authenticate(login, passcode)
    return _of_key(key, _digest(key.passcode_hash))


def log_in_by_password(username: str, password: str) -> Standing:
    """By a Django user's name and password. As slow as the password's hash is meant to be, for unknown names too.

    Raises:
        LoginRefused: unknown or deactivated, or the wrong password; the message does not say which.
    """
    user = None if "\0" in username else _users().filter(username=username).first()
    if user is None:
        make_password(password)
        raise LoginRefused(WRONG)
    # Not user.check_password, which may store the hash anew and so change what was proved.
    if not check_password(password, user.password) or not user.is_active:
        raise LoginRefused(WRONG)
    return _of_user(user, _digest(user.password))


def log_in_by_certificate(names: Collection[str]) -> Standing:
    """By the names in a client's certificate, which TLS has verified.

    Raises:
        LoginRefused: nobody logs in by these names, several do, or who does was revoked or deactivated.
    """
    found = list(ClientCertificate.objects.filter(name__in=[name for name in names if "\0" not in name]))
    if not found:
        raise LoginRefused("nobody is known by the names in this certificate")
    if len({(certificate.key_id, certificate.user_id) for certificate in found}) > 1:
        raise LoginRefused("the names in this certificate are those of several logins")
    certificate = found[0]
    kind: Literal["key", "user"] = "key" if certificate.key_id else "user"
    identity = Identity(kind, certificate.key_id or certificate.user_id or 0, _by_certificate(certificate.name))
    standing = standings([identity]).get(identity)
    if standing is None:
        raise LoginRefused("who logs in by this certificate was revoked or deactivated")
    return standing


def log_in_by_name(name: str) -> Standing:
    """As the key or the person of that name, without a proof: for clients that a listener lets in without a log-in.

    Raises:
        LoginRefused: there is none, or it was revoked or deactivated.
    """
    found = "\0" not in name and (
        [Identity("key", id, UNPROVEN) for id in AccessKey.objects.filter(login=name).values_list("id", flat=True)]
        or [Identity("user", id, UNPROVEN) for id in User.objects.filter(username=name).values_list("id", flat=True)]
    )
    standing = standings(found[:1]).get(found[0]) if found else None
    if standing is None:
        raise LoginRefused(f"nobody is called {name!r}, whom clients without a log-in are here")
    return standing


def standings(identities: Iterable[Identity]) -> dict[Identity, Standing]:
    """What they may do now; those whose log-in is gone are left out."""
    wanted = set(identities)
    found: dict[Identity, Standing] = {}
    keys = _keys().in_bulk({identity.id for identity in wanted if identity.kind == "key"})
    users = _users().in_bulk({identity.id for identity in wanted if identity.kind == "user"})
    for identity in wanted:
        key = keys.get(identity.id) if identity.kind == "key" else None
        if key is not None and identity.proof in _proofs(key.passcode_hash, key.certificates.all()):
            found[identity] = _of_key(key, identity.proof)
        user = users.get(identity.id) if identity.kind == "user" else None
        if user is not None and user.is_active and identity.proof in _proofs(user.password, _certificates_of(user)):
            found[identity] = _of_user(user, identity.proof)
    return found


def access_of_key(key: AccessKey) -> Access:
    """What a key may do."""
    rules = tuple(permission.rule() for permission in key.permissions.all()) if key.restricted else None
    return Access(frozenset(key.may_enter()), rules)


def access_of_user(user: Any) -> Access:
    """What a person may do: all, for superusers; else what their own and their groups' permissions say.

    Who has Django's permission `jobs.add_job` may send everywhere.
    """
    if not user.is_active:
        return Access(frozenset(), ())
    if user.is_superuser:
        return EVERYTHING
    rules = [permission.rule() for permission in user.destinations.all()]
    for group in user.groups.all():
        rules += [permission.rule() for permission in group.destinations.all()]
    if user.has_perm(SEND_ANYWHERE):
        rules.append(Rule(None, "**", frozenset({Verb.SEND})))
    named = [rule.namespace for rule in rules]
    return Access(None if None in named else frozenset(name for name in named if name is not None), tuple(rules))


def _of_key(key: AccessKey, proof: str) -> Standing:
    limits = KeyLimits(key.max_connections, key.max_subscriptions, key.max_sends_per_second, key.max_unacked)
    identity = Identity("key", key.pk, proof)
    return Standing(identity, key.login, key.default_namespace.name, access_of_key(key), limits)


def _of_user(user: User, proof: str) -> Standing:
    access = access_of_user(user)
    only = next(iter(access.namespaces)) if access.namespaces is not None and len(access.namespaces) == 1 else None
    return Standing(Identity("user", user.pk, proof), user.get_username(), only, access)


def _keys() -> "QuerySet[AccessKey]":
    permissions = Prefetch("permissions", Permission.objects.select_related("namespace"))
    return (
        AccessKey.valid()
        .select_related("default_namespace")
        .prefetch_related("namespaces", "certificates", permissions)
    )


def _users() -> "QuerySet[User]":
    permissions = Permission.objects.select_related("namespace")
    return User.objects.prefetch_related(
        Prefetch("destinations", permissions), Prefetch("groups__destinations", permissions), "certificates"
    )


def _certificates_of(user: Any) -> "QuerySet[ClientCertificate]":
    found: QuerySet[ClientCertificate] = user.certificates.all()
    return found


def _proofs(stored: str, certificates: "Iterable[ClientCertificate]") -> set[str]:
    return {UNPROVEN, _digest(stored), *(_by_certificate(certificate.name) for certificate in certificates)}


def _by_certificate(name: str) -> str:
    return f"certificate {name}"


def _digest(stored: str) -> str:
    return hashlib.sha256(stored.encode()).hexdigest()
