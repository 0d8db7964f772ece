"""Certificates for both ports, HTTP's and gRPC's: read once at start, so that what is wrong with them is said then."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import StartError
from ..settings import Settings


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files, all of PEM.

    Attributes:
        certificate: the server's own, and those between it and its root.
        client_ca: roots of the clients' certificates, which are asked for then; None asks for none.

    """

    certificate: Path
    key: Path
    client_ca: Path | None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Those of the settings; None without any.

        Raises:
            StartError: a file cannot be read, or is not what it should be.

        """
        if settings.tls_certificate is None or settings.tls_key is None:
            return None
        made = cls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        made._check()
        return made

    def for_uvicorn(self) -> dict[str, Any]:
        """The same as arguments of uvicorn's configuration."""
        given: dict[str, Any] = {"ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        if self.client_ca is not None:
            given |= {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return given

    def _check(self) -> None:
        for file in filter(None, (self.certificate, self.key, self.client_ca)):
            try:
                content = file.read_bytes()
            except OSError as error:
                raise StartError(f"{file}: {error.strerror}") from None
            if b"-----BEGIN " not in content:
                raise StartError(f"{file}: is no PEM file")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise StartError(
                f"{self.certificate} and {self.key} are no certificate and the unencrypted key of it: {error}"
            ) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise StartError(f"{self.client_ca}: holds no certificates: {error}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")
