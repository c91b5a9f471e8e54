"""A TCP relay that delays every byte, as a distant host does: relay.py PORT SECONDS."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from typing import Any


class Relay:
    """A TCP relay to a port on loopback that holds every byte back for `delay` seconds."""

    def __init__(self, port: int, delay: float):
        self.target_port, self.delay = port, delay
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target_port))
            for a, b in ((client, server), (server, client)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.pump(a, b)

    def pump(self, source: Any, target: Any) -> None:
        waiting: queue.Queue = queue.Queue(4096)

        def take() -> None:
            data = b"-"
            while data:
                try:
                    data = source.recv(1 << 18)
                except OSError:
                    data = b""
                waiting.put((time.perf_counter() + self.delay, data))

        def give() -> None:
            while True:
                due, data = waiting.get()
                time.sleep(max(0, due - time.perf_counter()))
                try:
                    if not data:
                        return target.shutdown(1)
                    target.sendall(data)
                except OSError:
                    return None

        for run in (take, give):
            threading.Thread(target=run, daemon=True).start()


def relay_process(port: int, delay: float) -> tuple[subprocess.Popen, int]:
    """A Relay in a process of its own, and its port; it ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(port), str(delay)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    return process, int(process.stdout.readline())


if __name__ == "__main__":
    print(Relay(int(sys.argv[1]), float(sys.argv[2])).port, flush=True)
    sys.stdin.read()
