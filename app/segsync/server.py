"""The platform's second door: HTTP on port 4743, `GET /health` and `POST /invoke`, for images built with API=invoke."""

import json
import logging
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from segsync.errors import ResourceError, SegsyncError

log = logging.getLogger(__name__)

PORT = 4743
#: A chunk's size, and the longest line that is read before one.
CHUNK_SIZE, CHUNK_LINE = re.compile(rb"[0-9a-fA-F]{1,8}"), 1024


def make_server(invoke: Callable[[], None], port: int = PORT) -> ThreadingHTTPServer:
    """A server, not yet started, whose `POST /invoke` calls `invoke`; port 0 takes any free one.

    `/invoke` answers 201 when the case is written, 500 with one line when it failed; calls run one after another.
    `/health` answers 200 as long as the server runs: make it once the models are loaded. Raises ResourceError where the
    port is taken.
    """
    busy = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """`/health`."""
            if self.path != "/health":
                return self._answer(HTTPStatus.NOT_FOUND, "expected GET /health")
            return self._answer(HTTPStatus.OK, "ready")

        def do_POST(self) -> None:
            """`/invoke`."""
            # The body says nothing. Left unread, it would begin the next request, or break the client's connection.
            length = self.headers.get("Content-Length", "0")
            if "Transfer-Encoding" in self.headers:
                if not self._read_chunks():
                    return self._answer(HTTPStatus.BAD_REQUEST, "expected a body in chunks, each after its size")
            elif length.isascii() and length.isdigit():
                self.rfile.read(int(length))
            else:
                self.close_connection = True
                return self._answer(HTTPStatus.BAD_REQUEST, f"expected a Content-Length in bytes, found {length!r}")
            if self.path != "/invoke":
                return self._answer(HTTPStatus.NOT_FOUND, "expected POST /invoke")
            try:
                with busy:
                    invoke()
            except SegsyncError as error:
                log.error("%s", error)
                return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            except Exception as error:  # a server answers whatever happens, and the log keeps the traceback
                log.exception("unexpected error")
                return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"unexpected {type(error).__name__}: {error}")
            return self._answer(HTTPStatus.CREATED, "done")

        def _read_chunks(self) -> bool:
            """Pass over a chunked body (RFC 9112, 7.1); False, and the connection ends, where it is none."""
            while True:
                size = self.rfile.readline(CHUNK_LINE).split(b";")[0].strip()
                if not CHUNK_SIZE.fullmatch(size):
                    self.close_connection = True
                    return False
                if int(size, 16) == 0:
                    break
                self.rfile.read(int(size, 16) + 2)
            while self.rfile.readline(CHUNK_LINE).strip():
                pass
            return True

        def _answer(self, status: HTTPStatus, message: str) -> None:
            body = json.dumps({"message": message}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
            log.debug(format, *args)

    try:
        return ThreadingHTTPServer(("0.0.0.0", port), Handler)
    except OSError as error:
        raise ResourceError(
            f"port {port}: expected a free port, found: {error.strerror}; give another --port"
        ) from error
