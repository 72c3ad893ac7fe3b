"""A proxy in front of a real S3 server that answers some requests badly."""

import random
import socketserver
import threading
from collections.abc import Callable
from enum import Enum, auto
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler
from typing import Self
from urllib.parse import urlsplit


class Fault(Enum):
    """What becomes of a request."""

    NONE = auto()
    ERROR = auto()
    """500 without reaching the server."""
    LOST = auto()
    """The server does it, the client never hears of it."""
    CUT = auto()
    """Half of the answer's body arrives."""
    HANG = auto()
    """No answer until the proxy ends."""


Judge = Callable[[str, HTTPMessage], Fault]
"""Method and headers to fault; called under a lock."""


def half_of_them(seed: int) -> Judge:
    """Answers 500 to every second request on average."""
    draw = random.Random(seed)
    return lambda method, headers: Fault.ERROR if draw.random() < 0.5 else Fault.NONE


def once(fault: Fault, when: Callable[[str, HTTPMessage], bool]) -> Judge:
    """Faults the first request that fits."""
    left = [fault]
    return lambda method, headers: left.pop() if left and when(method, headers) else Fault.NONE


class FaultyProxy:
    """Runs in a thread; `endpoint` is where clients go, `faults` how many requests went wrong."""

    def __init__(self, upstream: str, judge: Judge) -> None:
        self.faults = 0
        lock, ended = threading.Lock(), threading.Event()
        proxy, host = self, urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    fault = judge(self.command, self.headers)
                    proxy.faults += fault is not Fault.NONE
                if fault is Fault.HANG:
                    ended.wait()
                    self.close_connection = True
                elif fault is Fault.ERROR:
                    self._send(500, {}, b"", "0")
                else:
                    self._forward(body, fault)

            def _forward(self, body: bytes, fault: Fault) -> None:
                connection = HTTPConnection(host, timeout=30)
                # with the client's own Host header, which is signed
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if fault is Fault.LOST:
                    assert answer.status < 300
                    self.close_connection = True
                    return
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                if fault is Fault.CUT:
                    data, self.close_connection = data[: len(data) // 2], True
                self._send(answer.status, dict(answer.getheaders()), data, length or "0")

            def _send(self, status: int, headers: dict[str, str], data: bytes, length: str) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._ended = ended
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
