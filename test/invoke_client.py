"""Calls an `invoke` container the way Grand Challenge does; run inside the container, where the server can be reached.

The contract: `GET /health` answers 200 once the model is loaded, within 300 s, without a redirect; `POST /invoke`
answers 201, as often as it is called; `/output` is empty before each case.
"""

import http.client
import shutil
import sys
import time
from pathlib import Path

PORT = 4743
OUTPUT = Path("/output")


def request(method: str, path: str, timeout: float) -> int:
    """Return the HTTP status of one call; redirects are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=timeout)
    try:
        connection.request(method, path, body=b"" if method == "POST" else None)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def wait_until_healthy(limit: float = 300.0) -> float:
    """Return the seconds until `/health` answered 200."""
    start = time.monotonic()
    while True:
        try:
            if request("GET", "/health", timeout=10.0) == 200:
                return time.monotonic() - start
        except OSError:
            pass  # the port is not open yet
        if time.monotonic() - start > limit:
            raise SystemExit(f"/health did not answer 200 within {limit:.0f} s")
        time.sleep(0.1)


def invoke_twice() -> None:
    """Process the case in `/input` twice, each time into an empty `/output`."""
    for call in (1, 2):
        for entry in OUTPUT.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        start = time.monotonic()
        status = request("POST", "/invoke", timeout=600.0)
        if status != 201:
            raise SystemExit(f"POST /invoke answered {status}, expected 201")
        sys.stdout.write(f"invoke {call}: 201 after {time.monotonic() - start:.1f} s\n")


if __name__ == "__main__":
    sys.stdout.write(f"health: 200 after {wait_until_healthy():.1f} s\n")
    invoke_twice()
