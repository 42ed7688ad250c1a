"""A server that gives the answers of S3 that no honest server can be brought to give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def planted(status: int, code: str = "", message: str = "", date: str = "") -> Iterator[str]:
    """Answer every request alike while the block runs; yields the endpoint.

    Args:
        status: HTTP status.
        code: S3's code in the body; empty: a page of HTML.
        message: What the body says besides.
        date: The header ``Date``; empty: now.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def date_time_string(self, timestamp: Any = None) -> str:
            return date or super().date_time_string(timestamp)

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
            if not code:
                body = f"<html><body>{message or 'hello'}</body></html>"
            if status < 300:
                body = ""
            # botocore asks for the bucket's region before it believes that there is another one
            self.send_response(403 if self.command == "HEAD" else status)
            self.send_header("Content-Type", "application/xml" if code else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            """Nothing: tests read what comes of it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
