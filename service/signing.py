"""Who must have signed which models (OpenSSF Model Signing), and bundles that are read only if that is so."""

import base64
import fnmatch
import json
import logging
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .errors import SignatureError, StartError
from .toml_file import read_toml

if TYPE_CHECKING:
    from lccl.bundle.format import Bundle

log = logging.getLogger(__name__)
SIGNATURE = "model.sig"  # in the bundle's folder; where model_signing's own command puts it by default
DESCRIPTION = "bundle.json"
MOST_BYTES = 16 << 30
LONGEST = 300  # characters of a reason
QUOTING = dict.fromkeys(map(ord, '[]\\"'))


class Signer(BaseModel):
    """Who must have signed the models of one pattern: exactly one of the four.

    Attributes:
        public_key: a file, PEM, of an elliptic curve.
        certificates: files, PEM, of the authorities that must stand behind the signing certificate.
        identity: of a Sigstore signature, with its ``issuer``; ``trust_config`` is a file for a Sigstore of one's own.
        unsigned: these models need no signature.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    public_key: Path | None = None
    certificates: Annotated[tuple[Path, ...], Field(min_length=1)] | None = None
    identity: str | None = None
    issuer: str | None = None
    trust_config: Path | None = None
    unsigned: bool = False

    @model_validator(mode="after")
    def _one(self) -> Self:
        ways = (self.public_key is not None, self.certificates is not None, self.identity is not None, self.unsigned)
        if sum(ways) != 1:
            raise ValueError("give one of public_key, certificates, identity (with issuer), or unsigned = true")
        if (self.identity is None) != (self.issuer is None) or (self.trust_config and self.identity is None):
            raise ValueError("identity and issuer go together, and trust_config with them")
        return self

    def files(self) -> list[Path]:
        return [file for file in (self.public_key, *(self.certificates or ()), self.trust_config) if file is not None]

    def verifier(self, folder: Path) -> Any:
        """What verifies signatures; files are relative to ``folder``.

        Raises:
            Exception: a key or certificate is none, or Sigstore's roots of trust cannot be had.

        """
        from model_signing import verifying

        config: Any = verifying.Config()  # type: ignore[no-untyped-call,unused-ignore]
        if self.public_key is not None:
            return config.use_elliptic_key_verifier(public_key=folder / self.public_key)
        if self.certificates is not None:
            return config.use_certificate_verifier(certificate_chain=[folder / file for file in self.certificates])
        trust = folder / self.trust_config if self.trust_config else None
        return config.use_sigstore_verifier(identity=self.identity, oidc_issuer=self.issuer, trust_config=trust)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[dict[str, Signer], Field(min_length=1)]


class SigningPolicy:
    """The file that ``LCCL_SIGNING_POLICY`` names: patterns of models' names, each with who must have signed.

    The first pattern that fits a name counts; a model that none fits is refused.
    """

    def __init__(self, signers: Mapping[str, Signer], folder: Path) -> None:
        self._signers, self._folder = dict(signers), folder

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy.

        Raises:
            StartError: it cannot be used, or model-signing is not installed.

        """
        file = read_toml(path, _File)
        try:
            import model_signing.verifying  # noqa: F401
        except ImportError as error:
            raise StartError(f"a signing policy needs the package {error.name}: pip install 'lccl[signing]'") from None
        for signer in file.models.values():
            for needed in signer.files():
                if not (path.parent / needed).is_file():
                    raise StartError(f"{path}: {needed} is not there")
            if signer.public_key or signer.certificates:
                try:
                    signer.verifier(path.parent)
                except Exception as error:  # of cryptography, whatever is wrong with the file
                    raise StartError(f"{path}: its key or certificate cannot be used: {error}") from None
        return cls(file.models, path.parent)

    def read(self, name: str, home: Path) -> "Bundle":
        """Read the bundle that is served under a name, if its signature is as the policy asks.

        Verified and read is one private copy, so that what is served is what was signed, whoever writes to ``home``.

        Raises:
            SignatureError: it is not.
            BundleError: it is, and the bundle cannot be used.

        """
        from lccl.bundle.format import load

        signer = next((one for pattern, one in self._signers.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if signer is None:
            raise SignatureError(f"no entry of the signing policy fits {name}: add one, or unsigned = true for it")
        if signer.unsigned:
            return load(home)
        with tempfile.TemporaryDirectory(prefix="lccl-") as private:
            copy = Path(private) / home.name
            try:
                _copy(home, copy)
            except OSError as error:
                raise SignatureError(f"{home} cannot be read for its signature: {error.strerror or error}") from None
            self._verify(signer, home, copy)
            return load(copy)

    def _verify(self, signer: Signer, home: Path, copy: Path) -> None:
        signature = copy / SIGNATURE
        if not signature.is_file():
            raise SignatureError(f"{home} is not signed, and the policy asks for it: there is no {SIGNATURE}")
        try:
            signer.verifier(self._folder).verify(copy, signature)
            is_covered = DESCRIPTION in _signed_files(signature)
        except Exception as error:  # of model_signing, cryptography or sigstore, for whatever reason: it is not good
            reason = " ".join(str(error).partition(": Expected ")[0].translate(QUOTING).split())  # without digests
            reason = reason[:LONGEST] or type(error).__name__
            raise SignatureError(f"the signature of {home} is not what the policy asks for: {reason}") from None
        if not is_covered:
            raise SignatureError(f"the signature of {home} does not cover {DESCRIPTION}")
        log.info("the signature of %s is good", home)


def _copy(home: Path, target: Path) -> None:
    """The files of a bundle, links followed; what is hidden, and other versions' folders, are not part of it."""
    target.mkdir()
    left = MOST_BYTES
    for file in sorted(home.iterdir()):
        known = file.stat()
        if file.name.startswith(".") or not stat.S_ISREG(known.st_mode):
            continue
        left -= known.st_size
        if left < 0:
            raise OSError(f"it has more than {MOST_BYTES >> 30} GiB")
        shutil.copyfile(file, target / file.name)


def _signed_files(signature: Path) -> set[str]:
    """The files that a signature, already verified, is over; everything else in the folder may have been ignored."""
    envelope = json.loads(signature.read_text(encoding="utf-8"))["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return {str(entry["name"]) for entry in statement["predicate"]["resources"]}
