"""A TCP proxy that passes the first conditional PUT on and closes the connection instead of handing back the answer."""

import socketserver
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from typing import Self
from urllib.parse import urlsplit


class LosingProxy:
    """Runs in a thread; `endpoint` is where clients go, `lost` how many answers were withheld."""

    def __init__(self, upstream: str) -> None:
        self.lost = 0
        proxy, host = self, urlsplit(upstream).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                connection = HTTPConnection(host, timeout=30)
                # with the client's own Host header, which is signed
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                data = answer.read()
                connection.close()
                if self.command == "PUT" and self.headers.get("If-None-Match") and not proxy.lost:
                    assert answer.status == 200
                    proxy.lost += 1
                    self.close_connection = True
                    return
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_HEAD = do_DELETE = _pass_on

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
