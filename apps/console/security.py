"""The Content-Security-Policy of every page: scripts and style sheets from this server only, nothing inline."""

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

HEADER = "Content-Security-Policy"

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        # A style attribute carries data here (a bar's width, a brand's palette) and cannot run anything.
        "style-src-attr 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


class ContentSecurityPolicyMiddleware:
    """Sets the policy where a view has not set its own."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        answer = self.get_response(request)
        if isinstance(answer, HttpResponseBase):
            return with_policy(answer)
        return self._later(answer)

    @staticmethod
    async def _later(answer: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        return with_policy(await answer)


def with_policy(response: HttpResponseBase) -> HttpResponseBase:
    """The response, with the policy unless it has one."""
    response.headers.setdefault(HEADER, POLICY)
    return response
