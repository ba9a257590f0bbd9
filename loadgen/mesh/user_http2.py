"""The user service's HTTP/2 side: a rule with ``h2UpgradePolicy: UPGRADE`` makes the sidecars speak it to the service, in clear text."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, RequestReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from loadgen.mesh.user_service import CLIENT_HEADER, MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    from h2.events import Event

    from loadgen.mesh.user_service import Count, Service


class Http2Connection:
    """One connection; every stream is answered after its own service time."""

    def __init__(self, service: Service, transport: asyncio.Transport) -> None:
        self._service = service
        self._transport = transport
        self._names: dict[int, str] = {}
        self._serving: dict[int, tuple[Count, asyncio.TimerHandle]] = {}
        self._http2 = H2Connection(H2Configuration(client_side=False, header_encoding=False))
        self._http2.initiate_connection()

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer."""
        try:
            for event in self._http2.receive_data(data):
                self._take(event)
        except ProtocolError:
            self._flush()
            self._transport.close()
            return
        self._flush()

    def close(self) -> None:
        """Forget everything that is still being served: the peer is gone."""
        for stream in list(self._serving):
            self._leave(stream)

    def _take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            names = [value for name, value in event.headers if name == CLIENT_HEADER]
            self._names[event.stream_id] = names[0][:MAX_NAME_CHARACTERS].decode("latin-1") if names else ""
        elif isinstance(event, StreamEnded):
            self._serve(event.stream_id)
        elif isinstance(event, StreamReset):
            self._names.pop(event.stream_id, None)
            self._leave(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self._transport.close()

    def _serve(self, stream: int) -> None:
        count = self._service.enter(self._names.pop(stream, ""))
        self._serving[stream] = (count, asyncio.get_running_loop().call_later(self._service.draw(), self._answer, stream))

    def _answer(self, stream: int) -> None:
        self._leave(stream)
        if self._transport.is_closing():
            return
        self._http2.send_headers(
            stream,
            [(":status", str(self._service.status)), ("content-type", "text/plain"), ("content-length", str(len(self._service.body)))],
        )
        self._http2.send_data(stream, self._service.body, end_stream=True)
        self._flush()

    def _leave(self, stream: int) -> None:
        if stream in self._serving:
            count, timer = self._serving.pop(stream)
            timer.cancel()
            self._service.leave(count)

    def _flush(self) -> None:
        self._transport.write(self._http2.data_to_send())
