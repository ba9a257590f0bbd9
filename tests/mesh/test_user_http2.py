"""Does the service count streams as it counts requests on connections of their own?"""

from __future__ import annotations

import anyio
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded

from .test_user_service import CLOSED, LONG_S, PATIENCE_S, Line, running

pytestmark = pytest.mark.anyio

HEADERS = [(":method", "GET"), (":scheme", "http"), (":authority", "user"), (":path", "/")]


class Http2:
    """A client that speaks HTTP/2 on a line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._http2 = H2Connection(H2Configuration(client_side=True, header_encoding="ascii"))
        self._http2.initiate_connection()

    def request(self, client: str) -> int:
        """Send a request; give its stream."""
        stream = self._http2.get_next_available_stream_id()
        self._http2.send_headers(stream, [*HEADERS, ("x-loadgen-client", client)], end_stream=True)
        self._line.write(self._http2.data_to_send())
        return stream

    def reset(self, stream: int) -> None:
        """Take a request back."""
        self._http2.reset_stream(stream)
        self._line.write(self._http2.data_to_send())

    async def answers(self, count: int) -> dict[int, tuple[str, bytes]]:
        """Wait until so many streams have ended; give their status and body."""
        statuses: dict[int, str] = {}
        bodies: dict[int, bytes] = {}
        ended: set[int] = set()
        with anyio.fail_after(PATIENCE_S):
            while len(ended) < count:
                for event in self._http2.receive_data(await self._line.some()):
                    if isinstance(event, ResponseReceived):
                        statuses[event.stream_id] = next(str(value) for name, value in event.headers if str(name) == ":status")
                    elif isinstance(event, DataReceived):
                        bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                    elif isinstance(event, StreamEnded):
                        ended.add(event.stream_id)
        return {stream: (statuses[stream], bodies[stream]) for stream in ended}


async def test_every_stream_is_answered_with_the_body_and_counted_by_its_client() -> None:
    async with running() as service:
        client = Http2(await service.line())
        streams = [client.request(name) for name in ("client-1", "client-1", "client-2")]
        assert await client.answers(3) == dict.fromkeys(streams, ("200", b"Kevin"))
        counts = await service.until(in_flight=0, requests=3)
        assert {name: count["requests"] for name, count in counts["clients"].items()} == {"client-1": 2, "client-2": 1}


async def test_streams_of_one_connection_are_in_flight_each_on_its_own_and_one_that_is_reset_is_not() -> None:
    async with running(LONG_S) as service:
        client = Http2(await service.line())
        streams = [client.request("client-1") for _ in range(3)]
        assert (await service.until(in_flight=3, requests=3))["peak_in_flight"] == 3
        client.reset(streams[1])
        assert (await service.until(in_flight=2, requests=3))["clients"]["client-1"]["in_flight"] == 2


async def test_a_client_that_goes_away_takes_all_its_streams_with_it() -> None:
    async with running(LONG_S) as service:
        line = await service.line()
        client = Http2(line)
        for _ in range(3):
            client.request("client-1")
        await service.until(in_flight=3, requests=3)
        await line.close()
        await service.until(in_flight=0, requests=3)


async def test_a_breach_of_the_protocol_ends_the_connection_and_its_streams() -> None:
    async with running(LONG_S) as service:
        line = await service.line()
        Http2(line).request("client-1")
        await service.until(in_flight=1, requests=1)
        line.write(bytes(9))  # data for stream 0, which no stream is
        assert await line.end() != CLOSED, "a GOAWAY says why"
        await service.until(in_flight=0, requests=1)
