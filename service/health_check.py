"""``python -m lccl.service.health_check``: whether the service of this container is ready; the image's health check.

It asks where the variables ``LCCL_HOST`` and ``LCCL_PORT`` say, as the service itself, and never a proxy.
"""

import http.client
import json
import os
import sys

EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
TIMEOUT_S = 4.0


def main() -> None:
    """End with 0 if the service is ready, else with 1 and a sentence."""
    host, port = os.environ.get("LCCL_HOST", "").strip(), os.environ.get("LCCL_PORT", "").strip()
    connection = http.client.HTTPConnection(
        EVERYWHERE.get(host, host), int(port) if port.isdigit() else 8000, timeout=TIMEOUT_S
    )
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"not reached: {error!r}")
    if answer.status != http.client.OK:
        try:
            told = json.loads(body)["detail"]
        except (ValueError, TypeError, KeyError):  # another service's
            told = answer.reason
        sys.exit(f"{answer.status} {told}")


if __name__ == "__main__":
    main()
