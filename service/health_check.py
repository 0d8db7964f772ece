"""``python -m lccl.service.health_check``: whether the service of this container is ready; the image's health check.

It asks where the variables ``LCCL_HOST`` and ``LCCL_PORT`` say, as the service itself, and never a proxy. With
``LCCL_TLS_CERTIFICATE`` it asks over TLS, with that certificate as its own too, in case that one is asked for.
"""

import http.client
import json
import os
import ssl
import sys
from contextlib import closing

EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
TIMEOUT_S = 4.0


def main() -> None:
    """End with 0 if the service is ready, else with 1 and a sentence."""
    host, port = os.environ.get("LCCL_HOST", "").strip(), os.environ.get("LCCL_PORT", "").strip()
    address = EVERYWHERE.get(host, host), int(port) if port.isdigit() else 8000
    try:
        with closing(_connect(*address)) as connection:
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


def _connect(host: str, port: int) -> http.client.HTTPConnection:
    certificate, key = (os.environ.get(f"LCCL_TLS_{name}", "").strip() for name in ("CERTIFICATE", "KEY"))
    if not certificate:
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is this container's own
    context.load_cert_chain(certificate, key)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)


if __name__ == "__main__":
    main()
