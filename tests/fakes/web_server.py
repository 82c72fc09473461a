"""An HTTP server on loopback that answers one body, whole or broken in a chosen way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


@dataclass
class WebServer:
    """What the next answers are; change it between requests."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    send: int | None = None  # bytes of the body that are really sent, then the connection ends
    pause: float = 0.0  # seconds between the first half and the second
    port: int = 0
    asked: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/model.pb"


@contextmanager
def web_server(body: bytes) -> Iterator[WebServer]:
    state = WebServer(body)
    ended = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            self.send_response(state.status)
            for name, value in {"Content-Length": str(len(state.body)), **state.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            body = state.body[: state.send]
            try:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                deadline = time.monotonic() + state.pause
                while not ended.is_set() and (left := deadline - time.monotonic()) > 0:
                    ended.wait(left)
                self.wfile.write(body[len(body) // 2 :])
            except OSError:
                pass  # the other side has left, as some tests want

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_port
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
