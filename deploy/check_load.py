"""Asks a running service from several clients until SIGTERM; ends with 1 if an answer was wrong or too many failed."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import threading
import time
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import Any

PAUSE_S = 0.02  # of a client between two requests
TIMEOUT_S = 30


class Load:
    """Clients that send the same request over and over, each on a connection of its own.

    Attributes:
        outcomes: how many requests ended how: ``right``, ``wrong``, a status, or the name of a connection's error.

    """

    def __init__(self, service: str, image: bytes, headers: dict[str, str]) -> None:
        self._address, self._image = urllib.parse.urlsplit(service).netloc, image
        self._headers = {"Content-Type": "image/png", **headers}
        self._over, self._lock = threading.Event(), threading.Lock()
        self.outcomes: Counter[str] = Counter()
        status, answer = self._ask(self._connect())
        if status != 200:
            raise SystemExit(f"check_load: {status} {answer}")
        self._expected = told(answer)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[int, Any]:
        connection.request("POST", "/v1/classify?operating_point=exact", self._image, self._headers)
        response = connection.getresponse()
        body = response.read()
        is_json = response.headers.get_content_type().endswith("json")
        return response.status, json.loads(body) if is_json else body.decode(errors="replace")

    def _outcome(self, connection: http.client.HTTPConnection) -> str:
        try:
            status, answer = self._ask(connection)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__
        if status != 200:
            return str(status)
        return "right" if told(answer) == self._expected else "wrong"

    def _client(self) -> None:
        connection = self._connect()
        while not self._over.is_set():
            outcome = self._outcome(connection)
            with self._lock:
                self.outcomes[outcome] += 1
            time.sleep(PAUSE_S)
        connection.close()

    def run(self, clients: int) -> None:
        """Ask until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())
        threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        self._over.wait()
        for thread in threads:
            thread.join()


def told(answer: Any) -> Any:
    """What has to be the same in every answer: all but its id and its times, and what padding a batch took."""
    prediction = answer["predictions"][0]
    return answer["operating_point"], prediction["classes"], prediction["skip_ratio"], prediction["macs"]["gated"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", default="http://127.0.0.1:8002")
    parser.add_argument("--image", type=Path, default=Path("docs/example.png"))
    parser.add_argument("--key", help="API key to ask with")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--may-fail", type=int, default=0, help="requests that may end without an answer, or in error")
    options = parser.parse_args()
    load = Load(options.service, options.image.read_bytes(), {"X-API-Key": options.key} if options.key else {})
    load.run(options.clients)
    failed = load.outcomes.total() - load.outcomes["right"]
    print(", ".join(f"{count} {outcome}" for outcome, count in load.outcomes.most_common()))
    bad = load.outcomes["wrong"] or failed > options.may_fail
    raise SystemExit(int(bad))


if __name__ == "__main__":
    main()
