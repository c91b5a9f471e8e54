"""Bounds before the token and the parser: idle clients, endless heads, slow bytes, descriptors."""

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading

import pytest

from support.checkout import ROOT
from support.processes import wait_until

pytestmark = pytest.mark.remote_env
TOKEN = "0123456789abcdef"
HEAD = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE = 30  # seconds that a socket waits before the test fails


class Bounded:
    """A server of one small app on a thread; /hold answers when `release` is set."""

    def __init__(self, **room):
        import uvicorn

        from serving import connections, web

        self.release = threading.Event()
        limits = {"total": 8, "waiting": 4} | room

        async def app(scope, receive, send):
            import anyio

            if scope["path"] == "/hold":
                while not self.release.is_set():
                    await anyio.sleep(0.01)
            size = 1 << 24 if scope["path"] == "/big" else 2
            headers = [(b"content-length", str(size).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"x" * size})

        self.sock, _ = web.listen("127.0.0.1", 0, None)
        self.port = self.sock.getsockname()[1]
        kind = connections.protocol(connections.ConnectionRoom(**limits))
        guarded = web.RequestGuard(app, web.GuardRules(body=1000))
        self.server = uvicorn.Server(
            uvicorn.Config(
                guarded, http=kind, lifespan="off", log_level="error", timeout_keep_alive=0.2
            )
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.sock]})
        self.thread.start()

    @property
    def open(self):
        """How many connections there are."""
        return len(self.server.server_state.connections)

    def connect(self, data=b""):
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        client.sendall(data)
        return client

    def ask(self, data):
        """(status, code) of the answer to these bytes; (0, "") where there is none."""
        with self.connect() as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(data)
            return answer(client)

    def close(self):
        self.release.set()
        self.server.should_exit = True
        self.thread.join()


def read_all(client):
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            got += piece
    return got


def answer(client):
    got = read_all(client)
    head, _, body = got.partition(b"\r\n\r\n")
    code = json.loads(body)["error"]["code"] if body.startswith(b"{") else ""
    return (int(head.split()[1]) if head else 0), code


@pytest.fixture
def bounded():
    servers = []

    def start(**room):
        servers.append(Bounded(**room))
        wait_until(lambda: servers[-1].server.started)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_clients_that_send_nothing_keep_nobody_out(bounded):
    server = bounded()
    idle = [server.connect() for _ in range(60)]
    wait_until(lambda: server.open <= 4)
    for _ in range(3):
        assert server.ask(HEAD + b"Connection: close\r\n\r\n") == (200, "")
    assert answer(idle[0]) == (0, ""), "the one that waited longest went first"
    for client in idle:
        client.close()


def test_half_heads_and_half_bodies_are_as_idle(bounded):
    server = bounded()
    post = b"POST /quick HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    clients = [server.connect(part) for _ in range(10) for part in (HEAD, post, b"G")]
    assert server.ask(HEAD + b"Connection: close\r\n\r\n") == (200, "")
    wait_until(lambda: server.open <= 4)
    for client in clients:
        client.close()


def test_what_is_being_answered_is_never_cut_off_for_new_ones(bounded):
    server = bounded(total=4)
    hold = b"GET /hold HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    held = [server.connect(hold) for _ in range(4)]
    wait_until(lambda: sum(not c.waits for c in server.server.server_state.connections) == 4)
    assert server.ask(HEAD + b"\r\n") == (503, "overloaded")
    server.release.set()
    assert [answer(client) for client in held] == [(200, "")] * 4


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (HEAD + b"X: " + b"a" * (1 << 20), 431, "headers_too_large"),
        (HEAD + b"X: y\r\n" * 20_000, 431, "headers_too_large"),
        (HEAD + b"X: y\r\n" * 101 + b"\r\n", 431, "headers_too_large"),
        (b"GET /" + b"a" * (1 << 20), 431, "headers_too_large"),
        (b"\x16\x03\x01 no http at all\r\n\r\n", 400, "not_http"),
        (HEAD + b"Host: evil.example\r\n\r\n", 400, "duplicate_header"),
        (HEAD + b"Host: localhost\r\n\r\n", 400, "duplicate_header"),
        (HEAD + b"Origin: null\r\nOrigin: http://localhost\r\n\r\n", 400, "duplicate_header"),
        (HEAD + b"Content-Length: 1001\r\n\r\n", 413, "request_too_large"),
        (HEAD + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", 400, "not_http"),
        (HEAD.replace(b"localhost", b"user@localhost") + b"\r\n", 403, "host_not_allowed"),
        (HEAD.replace(b"localhost", b"localhost:x") + b"\r\n", 403, "host_not_allowed"),
        (HEAD.replace(b"localhost", b"[::1]:80") + b"Connection: close\r\n\r\n", 200, ""),
    ],
)  # fmt: skip
def test_heads_are_bounded_and_have_one_host(bounded, data, status, code):
    answer = bounded().ask(data + (b"" if data.endswith(b"\r\n\r\n") else b"\r\n"))
    # a client that still sends when it is refused may see the connection's end before the answer
    assert answer == (status, code) or (answer == (0, "") and len(data) > 1 << 16)


def test_trailers_are_bounded_too(bounded):
    post = (b"POST /quick HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n" + b"X: y\r\n" * 5000)  # fmt: skip
    assert bounded().ask(post)[0] in (0, 431)


def test_a_head_that_does_not_end_is_given_up(bounded, monkeypatch):
    from serving import connections

    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    server = bounded()
    slow, silent = server.connect(HEAD), server.connect()
    again = server.connect(HEAD + b"\r\n" + HEAD)  # a second request that stops half-way
    assert answer(slow) == (408, "timeout") and answer(silent) == (0, "")
    assert read_all(again).startswith(b"HTTP/1.1 200")
    wait_until(lambda: server.open == 0)


def test_a_body_that_does_not_end_is_given_up(bounded, monkeypatch):
    from serving import web

    monkeypatch.setattr(web, "READING", 0.3)
    post = b"POST /quick HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    server = bounded()
    assert server.ask(post + b"Content-Length: 9\r\n\r\n{") == (408, "timeout")
    assert server.ask(post + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{") == (408, "timeout")
    assert server.ask(post + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"a" * 2000)[0] == 413


def test_a_client_that_takes_no_answer_is_given_up(bounded, monkeypatch):
    from serving import connections

    monkeypatch.setattr(connections, "TAKING_SECONDS", 0.3)
    server = bounded()
    client = server.connect(HEAD.replace(b"/quick", b"/big") + b"\r\n")
    wait_until(lambda: server.open == 0)
    client.close()


def test_the_number_of_descriptors_is_raised_or_fewer_clients_are_taken():
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
from serving import connections
room = connections.room_for(200)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], room.total, room.waiting)
"""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
    for limit in (wanted, 200):
        done = subprocess.run([sys.executable, "-c", code, str(ROOT / "scripts"), str(limit)],
                              capture_output=True, text=True)  # fmt: skip
        soft, total, waiting = map(int, done.stdout.split())
        assert soft == min(limit, 552) and total < soft and 8 <= waiting < total, done.stdout
