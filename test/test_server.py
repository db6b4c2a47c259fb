"""The platform's HTTP door: 200 when ready, 201 when a case is written, and a server that outlives a bad case."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from builders import Cli, ball, files_below, flip_byte, grid_of, write_bundle, write_image, write_platform
from segsync.errors import InputError
from segsync.geometry import Volume
from segsync.server import PORT, CaseServer, make_server

GRID = grid_of((10, 11, 12))


@contextmanager
def serving(invoke: Callable[[], None]) -> Iterator[str]:
    """A server on a free port; gives its address."""
    with started_server(invoke) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def started_server(invoke: Callable[[], None]) -> Iterator[CaseServer]:
    """A server on a free port that answers."""
    with make_server(invoke, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    """Status and message of the answer."""
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())["message"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["message"]


def test_health_and_invoke() -> None:
    calls: list[str] = []
    with serving(lambda: calls.append("case")) as url:
        assert ask(f"{url}/health") == (200, "ready")
        assert calls == []
        assert ask(f"{url}/invoke", "POST", b"") == (201, "done")
        assert ask(f"{url}/invoke", "POST", b'{"a": 1}') == (201, "done")
        assert calls == ["case", "case"]
        assert ask(f"{url}/")[0] == ask(f"{url}/invoke")[0] == ask(f"{url}/health", "POST", b"")[0] == 404
    assert PORT == 4743


def test_bodies_without_a_plain_length() -> None:
    """Chunks are read to their end: the next request on the connection follows. No length is no reason to hang."""
    calls: list[str] = []
    with serving(lambda: calls.append("case")) as url:
        host = url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        for _ in range(2):
            connection.request("POST", "/invoke", body=iter([b"{}", b"x" * 70000]), encode_chunked=True)
            answer = connection.getresponse()
            assert (answer.status, answer.will_close) == (201, False)
            answer.read()
        connection.close()
        lengths = (("Content-Length", "-1", None), ("Content-Length", "abc", None))
        for name, value, body in (*lengths, ("Transfer-Encoding", "chunked", b"-5\r\n")):
            connection = http.client.HTTPConnection(host, timeout=30)
            connection.request("POST", "/invoke", body=body, headers={name: value})
            answer = connection.getresponse()
            assert (answer.status, answer.will_close) == (400, True)
            connection.close()
    assert calls == ["case", "case"]


@pytest.mark.parametrize("error", [InputError("dwi.mha: no image"), ZeroDivisionError("oops")])
def test_a_case_that_fails_is_answered_and_the_next_one_works(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = [error, None]

    def invoke() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with serving(invoke) as url:
        status, message = ask(f"{url}/invoke", "POST", b"")
        assert status == 500
        assert str(error) in message
        assert str(error) in caplog.text
        assert ask(f"{url}/health") == (200, "ready")
        assert ask(f"{url}/invoke", "POST", b"") == (201, "done")


def test_health_answers_while_a_case_is_under_way_and_cases_wait_for_one_another() -> None:
    begun, go_on, at_once, most = threading.Event(), threading.Event(), [0], [0]

    def invoke() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        begun.set()
        assert go_on.wait(30)
        at_once[0] -= 1

    with serving(invoke) as url:
        answers: list[tuple[int, str]] = []
        callers = [threading.Thread(target=lambda: answers.append(ask(f"{url}/invoke", "POST", b""))) for _ in "ab"]
        for caller in callers:
            caller.start()
        assert begun.wait(30)
        assert ask(f"{url}/health") == (200, "ready")
        go_on.set()
        for caller in callers:
            caller.join()
        assert answers == [(201, "done")] * 2
        assert most == [1]


def started(process: subprocess.Popen[str]) -> str:
    """The address that a server's log tells once its models are loaded."""
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"serving (.*) on port (\d+)", line)
        if found:
            assert found[1] == "isles22, isles24, aims-tbi, isles26"
            return f"http://127.0.0.1:{found[2]}"
    raise AssertionError("the server ended before it said its port")


def test_the_command_serves_case_after_case(tmp_path: Path, weights: Path) -> None:
    """As the platform does: a case, a bad one, and another of another task, into an output that is emptied before."""
    source, output = tmp_path / "input", tmp_path / "output"
    lesion = ball(GRID, 3.5)
    write_platform(source, {"t1-brain-mri": Volume(lesion, GRID)})
    arguments = ["--input", source, "--output", output, "--weights", weights, "--device", "cpu", "--port", "0"]
    command = [sys.executable, "-m", "segsync", "serve", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = started(process)
            assert ask(f"{url}/health")[0] == 200
            assert ask(f"{url}/invoke", "POST", b"") == (201, "done")
            mask = output / "images" / "tbi-segmentation" / "output.mha"
            assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(mask))), lesion)
            for path in output.rglob("*.*"):
                path.unlink()
            image = next(source.rglob("*.mha"))
            image.write_bytes(b"")
            status, message = ask(f"{url}/invoke", "POST", b"")
            assert (status, files_below(output)) == (500, [])
            assert message.startswith(f"{image}: expected")
            write_image(image, 1 - lesion, GRID)
            (source / "stroke-metadata.json").write_text("{}")
            assert ask(f"{url}/invoke", "POST", b"") == (201, "done")
            assert files_below(output) == [
                "images/lesion-probability-map/output.mha",
                "images/stroke-lesion-segmentation/output.mha",
            ]
        finally:
            process.terminate()


def test_without_weights_nothing_is_served(cli: Cli, tmp_path: Path) -> None:
    done = cli("serve", "--weights", tmp_path, "--port", "0")
    assert done.code == 4
    assert "no weights for the task" in done.err


def test_altered_weights_are_not_served(cli: Cli, tmp_path: Path) -> None:
    """Not a server that answers /health and then fails every case."""
    flip_byte(write_bundle(tmp_path / "isles22", "isles22") / "model.onnx")
    done = cli("serve", "--weights", tmp_path, "--port", "0")
    assert done.code == 4
    assert "model.onnx: expected sha256" in done.err


def test_a_port_in_use_is_one_line(cli: Cli, weights: Path) -> None:
    with serving(lambda: None) as url:
        done = cli("serve", "--weights", weights, "--port", url.rpartition(":")[2], "--device", "cpu")
    assert done.code == 6
    [line] = [line for line in done.err.splitlines() if line.startswith("ERROR")]
    assert "expected a free port, found: Address already in use" in line


# --- malformed requests ----------------------------------------------------------------------------------------------


def spoken(url: str, request: bytes, *, then_close: bool = False) -> bytes:
    """What the server says to these bytes; the client hangs up at once, or after its half of the talk."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        if then_close:
            connection.close()
            return b""
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(65536):
            answer += block
        return answer


HALF_REQUESTS = {
    "request line": b"POST /invoke HTT",
    "within a header": b"POST /invoke HTTP/1.1\r\nHost: x\r\nX-a: ",
    "after a header": b"POST /invoke HTTP/1.1\r\nHost: x\r\n",
    "within the body": b"POST /invoke HTTP/1.1\r\nContent-Length: 1000\r\n\r\nabc",
    "within a chunk": b"POST /invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nabc",
    "within a chunk's size": b"POST /invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1",
    "before the last chunk": b"POST /invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "before the end of trailers": b"POST /invoke HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-a: b\r\n",
}


@pytest.mark.parametrize("request_", HALF_REQUESTS.values(), ids=HALF_REQUESTS.keys())
def test_half_a_request_is_no_request(request_: bytes) -> None:
    calls: list[str] = []
    with serving(lambda: calls.append("case")) as url:
        assert spoken(url, request_) == b""
        spoken(url, request_, then_close=True)
        assert ask(f"{url}/health")[0] == 200
        assert ask(f"{url}/invoke", "POST", b"")[0] == 201
    assert calls == ["case"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: 100000000000000000000", 400),
        (b"Content-Length: 1_0", 400),
        ("Content-Length: \u0663".encode(), 400),
        (b"Content-Length: 3\r\nContent-Length: 4", 400),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: gzip", 400),
        (b"Content-Length: 1048577", 413),
        (b"Content-Length: 999999999999999999", 413),
    ],
)
def test_a_body_that_is_too_long_or_of_no_length_is_refused_unread(headers: bytes, status: int) -> None:
    calls: list[str] = []
    with serving(lambda: calls.append("case")) as url:
        answer = spoken(url, b"POST /invoke HTTP/1.1\r\n" + headers + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert calls == []


def test_a_body_is_dropped_in_blocks_and_refused_above_a_mebibyte() -> None:
    """Whole, in one piece or in chunks: the client that sent all of it reads why it was refused."""
    with serving(lambda: None) as url:
        assert ask(f"{url}/invoke", "POST", bytes(2**20)) == (201, "done")
        assert ask(f"{url}/invoke", "POST", bytes(2**20 + 1))[0] == 413
        host = url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        connection.request("POST", "/invoke", body=iter([bytes(2**19)] * 3), encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()


def test_a_silent_client_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segsync.server._Handler.timeout", 0.1)
    with serving(lambda: None) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /invoke HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
            assert connection.recv(100) == b""


def test_more_clients_than_there_is_room_for_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segsync.server.CONNECTIONS", 2)
    with serving(lambda: None) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        silent = [socket.create_connection((host, int(port)), timeout=30) for _ in "ab"]
        with socket.create_connection((host, int(port)), timeout=30) as third:
            assert third.recv(100).startswith(b"HTTP/1.1 503 ")
        for connection in silent:
            connection.close()


def test_cases_wait_up_to_a_limit_and_those_whose_client_left_are_not_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segsync.server.WAITING", 2)
    calls: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def invoke() -> None:
        calls.append("case")
        begun.set()
        assert go_on.wait(30)

    with started_server(invoke) as server:
        url, address = f"http://127.0.0.1:{server.server_port}/invoke", ("127.0.0.1", server.server_port)
        first = threading.Thread(target=ask, args=(url, "POST", b""))
        first.start()
        assert begun.wait(30)
        waiting = []
        for number in (1, 2):
            waiting.append(socket.create_connection(address, timeout=30))
            waiting[-1].sendall(b"POST /invoke HTTP/1.1\r\n\r\n")
            while server.waiting < number:
                time.sleep(0.01)
        assert ask(url, "POST", b"")[0] == 503
        waiting[0].close()
        go_on.set()
        assert waiting[1].recv(100).startswith(b"HTTP/1.1 201 ")
        waiting[1].close()
        first.join()
    assert calls == ["case", "case"]


TERMINATED_WHILE_A_CASE_RUNS = """
import os, signal, sys, threading
from segsync import engine
from segsync.cli import main
run, windows = engine.Engine.__call__, []
def called(self, array):
    windows.append(array.shape)
    if len(windows) == 3:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    if len(windows) >= 3:
        for _ in range(200):
            run(self, array)
    return run(self, array)
engine.Engine.__call__ = called
main()
"""


def test_a_server_that_is_stopped_while_a_case_runs_ends_as_it_should(tmp_path: Path, weights: Path) -> None:
    """With 143 and without half a file, not by an abort of the engine's threads."""
    write_platform(tmp_path / "input", {"t1-brain-mri": Volume(ball(grid_of((40, 40, 40)), 18.0), grid_of((40,) * 3))})
    arguments = ["--input", tmp_path / "input", "--output", tmp_path / "out", "--weights", weights, "--port", "0"]
    command = [sys.executable, "-c", TERMINATED_WHILE_A_CASE_RUNS, "serve", *map(str, arguments), "--host", "127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        url = started(process)
        with contextlib.suppress(OSError, http.client.HTTPException):
            ask(f"{url}/invoke", "POST", b"")
        assert process.wait(60) == 143
    assert files_below(tmp_path / "out") == []


def test_the_host_is_chosen(cli: Cli, weights: Path) -> None:
    with make_server(lambda: None, 0, "127.0.0.1") as server:
        assert server.server_address[0] == "127.0.0.1"
    done = cli("serve", "--weights", weights, "--port", "0", "--host", "256.1.1.1", "--device", "cpu")
    assert done.code == 6
    assert "give another --port or --host" in done.err
