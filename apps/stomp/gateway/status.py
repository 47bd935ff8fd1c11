"""A gateway process's health and figures over HTTP, for load balancers and Prometheus: `/healthz`, `/readyz`,
`/metrics`. It says nothing that is secret, and takes nothing but a GET."""

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from prometheus_client import CONTENT_TYPE_LATEST
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

if TYPE_CHECKING:
    from apps.stomp.gateway.server import Gateway

SECONDS = 5.0  # for a request to come


class StatusProtocol(asyncio.Protocol):
    """One request, one answer. The parser of requests is that of `websockets`, whose handshake is one."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._server = ServerProtocol()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # set before anything else is called
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there, who has some seconds to say what they want."""
        self._transport = cast(asyncio.Transport, transport)
        self._timer = self._gateway.loop.call_later(SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes of the request."""
        self._server.receive_data(data)
        for event in self._server.events_received():
            if isinstance(event, Request):
                self._server.send_response(self._answer(event))
        for part in self._server.data_to_send():
            if part:
                self._transport.write(part)
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _answer(self, request: Request) -> Response:
        gateway = self._gateway
        if request.method != "GET":
            return self._say(HTTPStatus.METHOD_NOT_ALLOWED, json.dumps({"code": "method_not_allowed"}))
        match request.path.partition("?")[0]:
            case "/healthz":
                return self._say(HTTPStatus.OK, json.dumps({"status": "ok"}))
            case "/readyz":
                parts = {"database": gateway.engine.healthy, "accepting": not gateway.draining}
                status = HTTPStatus.OK if gateway.ready else HTTPStatus.SERVICE_UNAVAILABLE
                word = "ready" if gateway.ready else "unavailable"
                return self._say(status, json.dumps({"status": word, "parts": parts}))
            case "/metrics":
                return self._say(HTTPStatus.OK, gateway.figures.text().decode(), CONTENT_TYPE_LATEST)
        return self._say(HTTPStatus.NOT_FOUND, json.dumps({"code": "not_found", "message": "see /metrics"}))

    def _say(self, status: HTTPStatus, text: str, content_type: str = "application/json") -> Response:
        response = self._server.reject(status, text)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = content_type
        response.headers["Cache-Control"] = "no-store"
        return response
