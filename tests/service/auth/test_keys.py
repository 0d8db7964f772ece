"""API keys: their file, their making, and who a key says is asking."""

from __future__ import annotations

import logging
import subprocess
import sys
import tomllib

import pytest

from service.auth import keys
from service.auth.keys import Caller, KeyRing, read_keys
from service.auth.rate_limits import parse_rate
from service.errors import ServiceError, StartError
from tests.service.conftest import digest
from tests.service.engines import wait_for
from tests.service.refusals import refused

PNG = {"Content-Type": "image/png"}


def test_a_key_file_is_read(three):
    found = read_keys(three)
    assert found[bytes.fromhex(digest("one"))] == Caller("one")
    assert found[bytes.fromhex(digest("two"))] == Caller("two", rate=parse_rate("2/minute"))
    assert found[bytes.fromhex(digest("boss"))] == Caller("boss", admin=True)


GOOD = f'sha256 = "{"a" * 64}"'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "keys: Field required"),
        ("[keys]", "keys: Dictionary should have at least 1 item"),
        ("keys = 3", "keys: Input should be a valid dictionary"),
        ("[keys.one]", "keys.one.sha256: Field required"),
        ('[keys.one]\nsha256 = "abc"', "keys.one.sha256: String should match"),
        (f'[keys.one]\nsha256 = "{"A" * 64}"', "keys.one.sha256: String should match"),
        (f"[keys.'two words']\n{GOOD}", "keys.two words.[key]: String should match"),
        (f"[keys.one]\n{GOOD}\nadmin = 1", "keys.one.admin: Input should be a valid boolean"),
        (f"[keys.one]\n{GOOD}\nadmn = true", "keys.one.admn: Extra inputs are not permitted"),
        (f'[keys.one]\n{GOOD}\nrate = "often"', "keys.one.rate: Value error, 'often' is no rate"),
        (f"[keys.one]\n{GOOD}\n[keys.two]\n{GOOD}", "two names have the same sha256"),
        (f"[keys.one]\n{GOOD}\n[more]", "more: Extra inputs are not permitted"),
        ("[keys.one", "is no TOML"),
        ("\0", "is no TOML"),
    ],
)
def test_a_wrong_key_file_is_refused_by_name_and_place(write, text, complaint):
    path = write(text)
    with pytest.raises(StartError) as refused:
        read_keys(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(StartError, match="No such file"):
        read_keys(tmp_path / "none.toml")
    with pytest.raises(StartError, match="Is a directory"):
        read_keys(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(StartError, match="is no TOML"):
        read_keys(tmp_path / "bytes.toml")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
@pytest.mark.parametrize(("mode", "refused"), [(0o600, False), (0o444, False), (0o620, True), (0o602, True)])
def test_a_file_that_others_may_write_to_is_refused(write, mode, refused):
    path = write(f"[keys.one]\n{GOOD}", mode)
    if refused:
        with pytest.raises(StartError, match="chmod go-w"):
            read_keys(path)
    else:
        read_keys(path)


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": "Bearer one"}, "one"),
        ({"authorization": "bearer  two "}, "two"),
        ({"x-api-key": "boss"}, "boss"),
        ({"authorization": "Basic xyz", "x-api-key": "one"}, "one"),
        ({"x-api-key": "single"}, "default"),
        ({"x-api-key": "One"}, None),
        ({"x-api-key": digest("one")}, None),
        ({"authorization": "one"}, None),
        ({"authorization": "Bearer ", "x-api-key": "one"}, None),
        ({"x-api-key": "\xff" * 1000}, None),
        ({}, None),
    ],
)
def test_a_key_says_who_asks(three, headers, name):
    ring = KeyRing.load(three, "single")
    if name is None:
        with refused("unauthorised"):
            ring.identify(headers, "192.0.2.1")
    else:
        assert ring.identify(headers, "192.0.2.1").name == name


@pytest.mark.parametrize("given", ["one", "two", "boss", "nobody's"])
def test_every_key_is_compared_whichever_is_right(three, monkeypatch, given):
    compared = []
    real = keys.hmac.compare_digest

    def compare(left, right):
        compared.append(right)
        return real(left, right)

    ring = KeyRing.load(three, None)
    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    try:
        ring.identify({"x-api-key": given}, "")
    except ServiceError:
        assert given == "nobody's"
    assert [each.hex() for each in compared] == [digest(name) for name in ("one", "two", "boss")]


def test_without_keys_everybody_is_known_by_address():
    ring = KeyRing.load(None, None)
    assert ring.identify({"x-api-key": "any"}, "192.0.2.1") == Caller("192.0.2.1")
    assert not ring.asked
    assert not ring.has_admin


def test_nobody_gets_in_without_a_key_by_the_hash_of_nothing(write):
    ring = KeyRing.load(write(f'[keys.one]\nsha256 = "{digest("")}"'), None)
    with refused("unauthorised"):
        ring.identify({}, "")


def test_the_single_key_may_not_be_in_the_file_too(write):
    with pytest.raises(StartError, match="LCCL_API_KEY"):
        KeyRing.load(write(f"[keys.default]\n{GOOD}"), "single")
    with pytest.raises(StartError, match="LCCL_API_KEY"):
        KeyRing.load(write(f'[keys.one]\nsha256 = "{digest("single")}"'), "single")


def test_the_single_key_may_have_any_letters():
    ring = KeyRing.load(None, "schlüssel")
    assert ring.identify({"x-api-key": "schlüssel".encode().decode("latin-1")}, "").name == "default"


def test_a_key_is_made_and_works(write):
    command = [sys.executable, "-m", "service.auth.keys", "alice", "--rate", "100/second", "--admin"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    key = made.stderr.splitlines()[0].split()[-1]
    assert key not in made.stdout
    assert len(key) == len("lccl_") + 43  # 256 bits in base64
    entry = tomllib.loads(made.stdout)["keys"]["alice"]
    assert entry == {"sha256": digest(key), "rate": "100/second", "admin": True}
    found = KeyRing.load(write(made.stdout), None).identify({"x-api-key": key}, "")
    assert found == Caller("alice", True, parse_rate("100/second"))


def test_the_former_command_works_and_warns():
    command = [sys.executable, "-m", "service.keys", "alice"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "alice" in tomllib.loads(made.stdout)["keys"]
    assert "python -m lccl.service.auth.keys" in made.stderr.splitlines()[0]


def test_two_keys_differ(capsys):
    keys.main(["a"])
    keys.main(["a"])
    hashes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sha256")]
    assert len(set(hashes)) == 2


@pytest.mark.parametrize("wrong", [["two words"], ["a", "--rate", "often"], ["../a"], []])
def test_a_key_that_could_not_be_used_is_not_made(wrong, capsys):
    with pytest.raises(SystemExit):
        keys.main(wrong)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_a_key_file_may_have_the_line_ends_of_windows(tmp_path, three, end):
    three.write_bytes(three.read_bytes().replace(b"\n", end.encode()))
    assert read_keys(three)[bytes.fromhex(digest("one"))] == Caller("one")


def admitted(ring, key):
    try:
        return ring.identify({"x-api-key": key}, "").name == key
    except ServiceError:
        return False


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(three, caplog):
    ring, text = KeyRing.load(three, None), three.read_text()
    replacement = three.with_suffix(".new")

    def replace(content, mode=0o600):
        replacement.write_text(content)
        replacement.chmod(mode)
        replacement.rename(three)
        ring.refresh()

    replace(text.replace(digest("two"), digest("new")))
    assert (admitted(ring, "one"), admitted(ring, "two"), ring.has_admin) == (True, False, True)
    for broken in ("[keys", f'[keys.one]\nsha256 = "{digest("one")}"\nadmn = 1', ""):
        caplog.clear()
        replace(broken)
        ring.refresh()
        assert admitted(ring, "boss")
        (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert str(three) in line.getMessage()
    three.unlink()
    ring.refresh()
    assert admitted(ring, "boss")
    replace(text, 0o666)
    assert not admitted(ring, "two")
    replace(f'[keys.one]\nsha256 = "{digest("one")}"\n')
    assert (admitted(ring, "one"), admitted(ring, "boss"), ring.has_admin) == (True, False, False)


def test_the_single_key_stays_when_the_file_changes(three):
    ring = KeyRing.load(three, "single")
    three.write_text(f'[keys.other]\nsha256 = "{digest("other")}"\n')
    ring.refresh()
    assert ring.identify({"x-api-key": "single"}, "").name == "default"
    assert (admitted(ring, "other"), admitted(ring, "one")) == (True, False)


def test_a_key_is_revoked_and_another_added_while_the_service_runs(serve, three, monkeypatch):
    monkeypatch.setattr("service.app.KEYS_S", 0.05)
    with serve(api_keys=three) as client:
        assert client.get("/v1/models", headers={"X-API-Key": "one"}).status_code == 200
        three.write_text(f'[keys.new]\nsha256 = "{digest("new")}"\n')
        wait_for(lambda: client.get("/v1/models", headers={"X-API-Key": "new"}).status_code == 200)
        assert client.get("/v1/models", headers={"X-API-Key": "one"}).status_code == 401


def test_the_server_does_not_start_with_a_bad_key_file(write, models_folder, start):
    path = write("[keys]")
    assert start("--models", str(models_folder), "--api-keys", str(path)).startswith(f"lccl-serve: {path}: keys: ")


def test_the_log_names_the_caller_and_never_the_key(serve, three, draw_image, caplog):
    with serve(api_keys=three) as client, caplog.at_level(logging.DEBUG):
        send = {"content": draw_image(), "headers": PNG | {"X-API-Key": "one"}}
        assert client.post("/v1/classify", **send).status_code == 200
        client.get("/v1/models", headers={"Authorization": "Bearer not-a-key"})
    lines = [record for record in caplog.records if record.name == "service.access"]
    assert [record.caller for record in lines] == ["one", ""]
    assert "not-a-key" not in caplog.text
