"""The platform's second door: HTTP on port 4743, `GET /health` and `POST /invoke`, for images built with API=invoke."""

import contextlib
import io
import json
import logging
import queue
import re
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from segsync.errors import ResourceError, SegsyncError

log = logging.getLogger(__name__)

HOST, PORT = "0.0.0.0", 4743  # inside a container: the platform calls from outside it
#: Seconds without a byte after which a client is given up.
TIMEOUT_S = 30.0
#: Connections at a time, and cases that wait while another runs; beyond them the answer is 503.
CONNECTIONS, WAITING = 32, 8
#: The body of a request says nothing: it is read in blocks, which are dropped, and is refused above this size.
LARGEST_BODY, BLOCK = 2**20, 2**16
#: Of a body that was refused so much is still read, so that the client comes to see the answer.
LINGER = 2**26
#: A chunk's size, and the longest line that is read before one.
CHUNK_SIZE, CHUNK_LINE = re.compile(rb"[0-9a-fA-F]{1,8}"), 1024
LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)


class RefusedError(Exception):
    """A request that is not carried out; the connection ends with the answer."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class CutOffError(Exception):
    """The client left before its request was whole."""


@dataclass(eq=False)
class _Job:
    """A case to run, and what became of it; waited: whether another ran when it came."""

    client: socket.socket
    waited: bool
    status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE
    message: str = "the server stops"
    done: threading.Event = field(default_factory=threading.Event)

    def abandoned(self) -> bool:
        """Whether the client hung up while its case waited."""
        if not self.waited:
            return False
        try:
            readable, _, _ = select.select([self.client], [], [], 0)
            return bool(readable) and self.client.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True


class CaseServer(ThreadingHTTPServer):
    """Threads of their own answer the clients; cases run one after another in the thread that called `serve_forever`.

    A signal that ends the process reaches its main thread: where the case runs there, it is stopped as in `predict`,
    with its half-written files taken away, and no other thread is left inside the engine.
    """

    def __init__(self, invoke: Callable[[], None], host: str, port: int) -> None:
        """Listen; raises OSError where the address cannot be had."""
        self._invoke = invoke
        self._jobs: queue.Queue[_Job] = queue.Queue(WAITING)
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._running, self._stopping = threading.Event(), threading.Event()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Handler)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Answer clients and run their cases until `shutdown` or an exception ends it."""
        threading.Thread(target=super().serve_forever, args=(poll_interval,), daemon=True).start()
        try:
            while not self._stopping.is_set():
                with contextlib.suppress(queue.Empty):
                    self._run(self._jobs.get(timeout=poll_interval))
        finally:
            super().shutdown()
            with contextlib.suppress(queue.Empty):
                while True:
                    self._jobs.get_nowait().done.set()

    def shutdown(self) -> None:
        """End `serve_forever` after the case that runs."""
        self._stopping.set()
        super().shutdown()

    @property
    def waiting(self) -> int:
        """Number of cases that wait while another runs."""
        return self._jobs.qsize()

    def answer_to(self, client: socket.socket) -> _Job:
        """Have a case run for a client and wait for it; raises RefusedError where too many wait already."""
        job = _Job(client, self._running.is_set() or not self._jobs.empty())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise RefusedError(
                HTTPStatus.SERVICE_UNAVAILABLE, f"expected at most {WAITING} waiting cases, found another; ask again"
            ) from None
        job.done.wait()
        return job

    def _run(self, job: _Job) -> None:
        self._running.set()
        try:
            if job.abandoned():
                log.warning("a client hung up while its case waited; the case is left out")
                return
            self._invoke()
            job.status, job.message = HTTPStatus.CREATED, "done"
        except SegsyncError as error:
            log.error("%s", error)
            job.status, job.message = HTTPStatus.INTERNAL_SERVER_ERROR, str(error)
        except Exception as error:  # a server answers whatever happens, and the log keeps the traceback
            log.exception("unexpected error")
            job.status = HTTPStatus.INTERNAL_SERVER_ERROR
            job.message = f"unexpected {type(error).__name__}: {error}"
        finally:
            self._running.clear()
            job.done.set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand a connection to a thread of its own, or turn it away where too many are open."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection's requests."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error of the server's."""
        log.debug("connection of %s failed", client_address, exc_info=True)


class _Lines(io.BufferedIOBase):
    """A connection's input that remembers whether it ended within a line or before one."""

    def __init__(self, file: Any) -> None:
        self._file, self.cut_off = file, False

    def readline(self, size: int | None = -1) -> bytes:
        line: bytes = self._file.readline(size)
        self.cut_off = self.cut_off or not line.endswith(b"\n")
        return line

    def read(self, size: int | None = -1) -> bytes:
        content: bytes = self._file.read(size)
        return content

    def close(self) -> None:
        self._file.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    server: CaseServer

    def setup(self) -> None:
        super().setup()
        self._lines = _Lines(self.rfile)
        self.rfile = self._lines

    def parse_request(self) -> bool:
        """The base class takes the end of the connection for the end of the headers."""
        whole = not self._lines.cut_off and super().parse_request() and not self._lines.cut_off
        self.close_connection = self.close_connection or not whole
        return whole

    def do_GET(self) -> None:
        """`/health`."""
        self._carry_out("/health", lambda: self._answer(HTTPStatus.OK, "ready"))

    def do_POST(self) -> None:
        """`/invoke`."""
        self._carry_out("/invoke", self._run_case)

    def _carry_out(self, path: str, act: Callable[[], None]) -> None:
        try:
            # Left unread, the body would begin the next request, or break the client's connection.
            self._drop_body()
            if self.path != path:
                return self._answer(HTTPStatus.NOT_FOUND, f"expected {self.command} {path}")
            act()
        except RefusedError as error:
            self.close_connection = True
            self._answer(error.status, str(error))
            self._linger()
        except CutOffError:
            self.close_connection = True
        return None

    def _run_case(self) -> None:
        job = self.server.answer_to(self.connection)
        self._answer(job.status, job.message)

    def _drop_body(self) -> None:
        encodings = self.headers.get_all("Transfer-Encoding", [])
        lengths = self.headers.get_all("Content-Length", [])
        if encodings:
            if lengths or [encoding.strip().lower() for encoding in encodings] != ["chunked"]:
                raise RefusedError(
                    HTTPStatus.BAD_REQUEST, "expected a body in chunks or of a Content-Length, found both"
                )
            return self._drop_chunks()
        if not lengths:
            return None
        if len(set(lengths)) > 1 or not LENGTH.fullmatch(lengths[0]):
            found = ", ".join(lengths)[:80]
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"expected a Content-Length in bytes, found {found!r}")
        _check_size(int(lengths[0]))
        return self._drop(int(lengths[0]))

    def _drop(self, size: int) -> None:
        while size:
            block = self.rfile.read(min(size, BLOCK))
            if not block:
                raise CutOffError
            size -= len(block)

    def _drop_chunks(self) -> None:
        """Pass over a chunked body (RFC 9112, 7.1)."""
        total = 0
        while True:
            size = self._line().split(b";")[0].strip()
            if not CHUNK_SIZE.fullmatch(size):
                raise RefusedError(HTTPStatus.BAD_REQUEST, "expected a body in chunks, each after its size")
            if int(size, 16) == 0:
                break
            total += int(size, 16)
            _check_size(total)
            self._drop(int(size, 16) + 2)
        while line := self._line().strip():
            total += len(line)
            _check_size(total)

    def _line(self) -> bytes:
        line = self.rfile.readline(CHUNK_LINE)
        if not line.endswith(b"\n") and len(line) < CHUNK_LINE:
            raise CutOffError
        return line

    def _linger(self) -> None:
        """Closed at once, a connection with unread input breaks before the client has read the answer."""
        with contextlib.suppress(OSError, CutOffError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            self._drop(LINGER)

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


def _check_size(size: int) -> None:
    if size > LARGEST_BODY:
        raise RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected a body of at most {LARGEST_BODY} bytes, found more"
        )


def make_server(invoke: Callable[[], None], port: int = PORT, host: str = HOST) -> CaseServer:
    """Make a server, not yet started, whose `POST /invoke` calls `invoke`.

    `/invoke` answers 201 when the case is written, 500 with one line when it failed; calls run one after another, and a
    call is answered 503 where too many wait. `/health` answers 200 as long as the server runs: make it once the models
    are loaded.

    Args:
        invoke: Runs the case; called in the thread that calls `serve_forever`.
        port: TCP port; 0 takes any free one.
        host: Address to listen on.

    Raises:
        ResourceError: The port is taken, or the address is not this machine's.
    """
    try:
        return CaseServer(invoke, host, port)
    except OSError as error:
        raise ResourceError(
            f"port {port}: expected a free port, found: {error.strerror}; give another --port or --host"
        ) from error
