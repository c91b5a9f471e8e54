"""Bounds that hold before a request is parsed or its token is read.

size      of a request's head, of its number of fields, of all that is sent for one request
time      for a head to arrive, and for an answer to be taken
number    of connections: the one that has kept us waiting longest goes when there are too many
          of them, and where all are being answered a new one gets 503

A connection *waits* while its client owes us bytes (no request yet, half a head, half a body);
it is *busy* while its request is answered. So clients that send nothing, or slowly, never keep
others out.
"""

from __future__ import annotations

import dataclasses
import json
import resource

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES = 32 << 10
HEADER_FIELDS = 100
MESSAGE_BYTES = 64 << 20  # of a whole request as it is sent: chunk sizes, extensions and trailers
HEAD_SECONDS = 15.0  # from a connection, or a request's first byte, to the end of its head
TAKING_SECONDS = 60.0  # that a client may leave an answer untaken
CLOSING_SECONDS = 5.0  # for a client to take the answer with which it is refused
WAITING = 256  # connections that owe us bytes
KEPT_DESCRIPTORS = 96  # for files, libraries and the event loop


@dataclasses.dataclass(frozen=True)
class ConnectionRoom:
    """How many connections there may be, and how many of them may wait."""

    total: int
    waiting: int


def room_for(busy: int) -> ConnectionRoom:
    """The room for `busy` answers at once and as many idle clients as descriptors allow.

    Raises the soft limit of file descriptors (256 on macOS) where the hard one allows it.
    """
    free = max(16, raise_descriptors(busy + WAITING + KEPT_DESCRIPTORS) - KEPT_DESCRIPTORS)
    total = min(busy + WAITING, free)
    return ConnectionRoom(total, max(8, min(WAITING, total // 2)))


def raise_descriptors(wanted: int) -> int:
    """Raise this process's soft limit of file descriptors to `wanted`; the limit that holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def protocol(room: ConnectionRoom) -> type[BoundedProtocol]:
    """uvicorn's `http` option: a BoundedProtocol with that room."""
    return type("RoomyProtocol", (BoundedProtocol,), {"room": room})


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol of one connection, within the bounds of this file."""

    room = ConnectionRoom(256, 128)

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._head = self._message = 0  # bytes of this request's head, of all of it
        self._in_head, self._message_ended = True, False
        self._refused = 0  # the status with which this connection was refused
        self._late = self._untaken = None  # timers
        self.since = self.loop.time()
        self._make_room()
        if not self._refused:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop("_late")
        self._stop("_untaken")
        super().connection_lost(exc)

    # --- number
    @property
    def idle(self) -> bool:
        """Whether no request is read or answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Whether the server waits for bytes of the client."""
        return self.idle or self.cycle.more_body

    def _make_room(self) -> None:
        """Close the connection that has waited longest where there are too many."""
        waiting = [c for c in self.connections if c is not self and c.waits]
        if len(self.connections) > self.room.total or len(waiting) >= self.room.waiting:
            if waiting:
                longest = min(waiting, key=lambda connection: connection.since)
                self.connections.discard(longest)
                longest.transport.abort()
            else:
                self._refuse(503, "overloaded", "too many requests are being answered")

    # --- size
    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        end = data.find(b"\r\n\r\n")
        if self._in_head and self._head + (len(data) if end < 0 else end) > HEAD_BYTES:
            self._refuse(431, "headers_too_large", f"a head has at most {HEAD_BYTES:,} bytes")
            return
        self._message += len(data)
        if self._message > MESSAGE_BYTES:
            self._refuse(413, "request_too_large", "the request does not end")
            return
        self._message_ended = False
        super().data_received(data)
        if self._message_ended:  # what follows in `data` is of the next request
            self._head = self._message = 0
        elif self._in_head:
            self._head += len(data)
        if self.idle and not self._late and not self._refused:
            self.since = self.loop.time()
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > HEADER_FIELDS:  # trailers are counted, too
            self._refuse(431, "headers_too_large", f"a head has at most {HEADER_FIELDS} fields")
            raise ValueError

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop("_late")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = self._message_ended = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    # --- time
    def _await_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._late = None
        if self.idle and self._head:
            self._refuse(408, "timeout", f"no whole head within {HEAD_SECONDS:g} s")
        elif self.idle:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop("_untaken")
        self._untaken = self.loop.call_later(TAKING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop("_untaken")
        super().resume_writing()

    def _stop(self, timer: str) -> None:
        if getattr(self, timer, None):
            getattr(self, timer).cancel()
            setattr(self, timer, None)

    # --- refusal
    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP (a method of uvicorn's protocol)."""
        self._refuse(400, "not_http", "this is no HTTP request")

    def _refuse(self, status: int, code: str, text: str) -> None:
        """Answer in the form of every error (web.ApiError), and close the connection."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = status
        self._stop("_late")
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": text, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        if self.idle:
            self.transport.write(
                STATUS_LINE[status] + b"content-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )
        self.transport.close()
        self._untaken = self.loop.call_later(CLOSING_SECONDS, self.transport.abort)
