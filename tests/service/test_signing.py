"""Signed bundles: good ones are served, all others refused with a sentence, while the rest goes on."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("model_signing", reason="model_signing is of the extra test")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lccl.bundle.format import save
from lccl.errors import BundleError
from service.errors import SignatureError, StartError
from service.signing import SigningPolicy
from tests.conftest import random_bundle

BY_KEY = '[models."net*"]\npublic_key = "key.pub"\n[models.open]\nunsigned = true\n'


def sign(home, *arguments):
    """By the command that the documentation names."""
    command = [sys.executable, "-m", "model_signing", "sign", *arguments, str(home), "--signature", home / "model.sig"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def write_key(file):
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    public = key.public_key()
    file.with_suffix(".pub").write_bytes(
        public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return key


@pytest.fixture(scope="session")
def signed(tmp_path_factory):
    """A folder with a key, its public part, and a bundle ``net`` that it signed."""
    folder = tmp_path_factory.mktemp("signed")
    write_key(folder / "key.pem")
    write_key(folder / "other.pem")
    save(random_bundle(), folder / "net")
    (folder / "net" / "README.md").write_text("a model card")
    sign(folder / "net", "key", "--private_key", str(folder / "key.pem"))
    return folder


@pytest.fixture
def place(signed, tmp_path):
    """A copy of the signed bundle under ``models/net``, and what writes a policy and reads the bundle by it."""
    shutil.copytree(signed / "net", tmp_path / "models" / "net")
    for file in ("key.pub", "other.pub"):
        shutil.copy(signed / file, tmp_path)
    return tmp_path


def policy(place, text=BY_KEY):
    (place / "policy.toml").write_text(text)
    return SigningPolicy.load(place / "policy.toml")


def test_a_signed_bundle_is_read(place):
    home = place / "models" / "net"
    assert policy(place).read("net", home).version == "1"


def test_a_version_behind_the_links_of_a_volume_is_read(place):
    volume = place / "models" / "net-2" / "7"
    volume.mkdir(parents=True)
    (volume / "..data").symlink_to(place / "models" / "net")
    for file in (place / "models" / "net").iterdir():
        (volume / file.name).symlink_to(f"..data/{file.name}")
    assert policy(place).read("net-2", volume).version == "1"


def change_weights(home):
    (home / "README.md").write_text("another model card")


def sign_anew_by_nobody(home):
    save(replace(random_bundle(), version="2"), home)


def add_a_file(home):
    (home / "more.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda home: (home / "model.sig").unlink(), "is not signed"),
        (lambda home: (home / "model.sig").write_text("{}"), "not what the policy asks for"),
        (change_weights, "Hash mismatch for 'README.md'"),
        (sign_anew_by_nobody, "Hash mismatch for 'bundle.json'"),
        (add_a_file, "Extra files"),
        (lambda home: (home / "README.md").unlink(), "Missing files"),
    ],
)
def test_what_is_not_as_it_was_signed_is_refused(place, damage, says):
    home = place / "models" / "net"
    damage(home)
    with pytest.raises(SignatureError, match=says):
        policy(place).read("net", home)
    assert policy(place).read("open", home)


def test_another_key_is_refused(place):
    with pytest.raises(SignatureError, match="Key mismatch"):
        policy(place, BY_KEY.replace("key.pub", "other.pub")).read("net", place / "models" / "net")


def test_a_signature_over_other_files_alone_is_refused(place, signed):
    home = place / "models" / "net"
    sign(
        home, "key", "--private_key", str(signed / "key.pem"),
        "--ignore-paths", str(home / "bundle.json"), "--ignore-paths", str(home / "model.safetensors"),
    )  # fmt: skip
    with pytest.raises(SignatureError, match="does not cover"):
        policy(place).read("net", home)


def test_a_model_that_the_policy_does_not_know_is_refused(place):
    with pytest.raises(SignatureError, match="no entry of the signing policy fits strange"):
        policy(place).read("strange", place / "models" / "net")


def test_a_signed_bundle_may_still_be_damaged(place, signed):
    home = place / "models" / "net"
    weights = home / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    sign(home, "key", "--private_key", str(signed / "key.pem"))
    with pytest.raises(BundleError, match="hash") as raised:
        policy(place).read("net", home)
    assert not isinstance(raised.value, SignatureError)


def certify(name, key, issuer=None, issuer_key=None):
    """A certificate: an authority's, or one to sign with."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    is_authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **usage
            ),
            critical=True,
        )
    )
    if not is_authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
    return builder.sign(issuer_key or key, hashes.SHA256())


def test_a_certificate_of_the_right_authority_is_good_and_of_another_one_is_not(place):
    home, files = place / "models" / "net", {}
    keys = {name: write_key(place / f"{name}.pem") for name in ("root", "signer", "stranger")}
    root = certify("root", keys["root"])
    certificates = {
        "root": root, "signer": certify("signer", keys["signer"], root, keys["root"]),
        "stranger": certify("stranger", keys["stranger"]),
    }  # fmt: skip
    for name, certificate in certificates.items():
        files[name] = place / f"{name}.crt"
        files[name].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    sign(
        home, "certificate", "--private_key", str(place / "signer.pem"),
        "--signing_certificate", str(files["signer"]), "--certificate_chain", str(files["root"]),
    )  # fmt: skip
    assert policy(place, '[models."*"]\ncertificates = ["root.crt"]\n').read("net", home).version == "1"
    with pytest.raises(SignatureError, match="not what the policy asks for"):
        policy(place, '[models."*"]\ncertificates = ["stranger.crt"]\n').read("net", home)


def test_a_key_s_signature_is_no_identity_s(place):
    """Whether or not Sigstore's roots of trust can be had here."""
    text = (
        '[models."*"]\nidentity = "me@example.com"\nissuer = "https://accounts.example.com"\ntrust_config = "t.json"\n'
    )
    (place / "t.json").write_text("{}")
    with pytest.raises(SignatureError, match="not what the policy asks for"):
        policy(place, text).read("net", place / "models" / "net")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "models"),
        ("[models]\n", "models"),
        ("models = 1 = 2", "no TOML"),
        ('[models."*"]\n', "one of public_key"),
        ('[models."*"]\npublic_key = "key.pub"\nunsigned = true\n', "one of public_key"),
        ('[models."*"]\nidentity = "me"\n', "issuer"),
        ('[models."*"]\npublic_kee = "key.pub"\n', "public_kee"),
        ('[models."*"]\npublic_key = "none.pub"\n', "none.pub is not there"),
        ('[models."*"]\npublic_key = "policy.toml"\n', "cannot be used"),
    ],
)
def test_a_policy_that_cannot_be_used_ends_the_start(place, text, says):
    with pytest.raises(StartError, match=says):
        policy(place, text)


def test_without_the_file_the_start_ends(tmp_path):
    with pytest.raises(StartError, match="No such file"):
        SigningPolicy.load(tmp_path / "none.toml")


def test_unsigned_models_are_refused_and_the_others_served(serve, start, place, signed):
    models = place / "models"
    save(random_bundle(), models / "net-unsigned")
    save(random_bundle(), models / "open")
    policy(place)
    keys = {"api_keys": None}
    with serve(models=models, signing_policy=place / "policy.toml", **keys) as client:
        assert [model["name"] for model in client.get("/v1/models").json()["models"]] == ["net", "open"]
        registry = client.app.state.registry
        with pytest.raises(SignatureError):
            registry.load("net-unsigned")
        (models / "net" / "model.sig").unlink()
        registry.refresh()
        (entry,) = [entry for entry in registry.index() if entry.name == "net-unsigned"]
        assert "is not signed" in entry.reason
        assert registry.find("net")
        shutil.copy(signed / "net" / "model.sig", models / "net")
    shutil.rmtree(models / "net")
    shutil.rmtree(models / "open")
    assert "is not signed" in start("--models", str(models), "--signing-policy", str(place / "policy.toml"))
