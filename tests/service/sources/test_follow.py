"""Sources as folders: fetched once, resumed, checked, replaced in one step, and served while the source is away."""

from __future__ import annotations

import io
import logging
import os
import shutil
import stat
import sys
import tarfile
import threading
import zipfile
from hashlib import sha256

import pytest

from service.errors import StartError
from service.inference.folder import look
from service.sources.follow import ModelSources
from service.sources.location import parse_locations


@pytest.fixture
def sources(tmp_path):
    """Makes sources with a cache of this test's own; ``.told`` are the states that they told."""

    def make(text):
        told = {}
        made = ModelSources(parse_locations(text), tmp_path / "cache", told.__setitem__)
        made.told = told
        return made

    return make


def models(sources):
    return {"/".join(key): home for key, home in look(*sources.folders).homes.items()}


def content(home):
    return {file.name: file.read_bytes() for file in home.iterdir()}


def archived(files, kind="tar"):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, value in files.items():
                archive.writestr(name, value)
    else:
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, value in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return out.getvalue()


def placed(site, path, value):
    site.files[path] = value
    return f"https://{site.proxy.address}{path}#sha256={sha256(value).hexdigest()}"


class TestBucket:
    def test_a_prefix_is_a_folder_of_models(self, store, sources, bundles):
        store.put(bundles / "1", "all/net")
        store.put(bundles / "2", "all/net/7")
        store.put(bundles / "2", "all/too/deep/for/one")
        store.put(bundles / "1", "elsewhere/other")
        fetched = sources("s3://models/all")
        fetched.start()
        found = models(fetched)
        assert found.keys() == {"net/1", "net/7"}
        assert content(found["net/7"]) == content(bundles / "2")
        assert fetched.told == {"s3://models/all": True}

    def test_a_bundle_at_the_prefix_is_a_model(self, store, sources, bundles):
        store.put(bundles / "1", "a/net")
        fetched = sources("s3://models/a/net/")
        fetched.start()
        assert models(fetched).keys() == {"net/1"}

    def test_what_was_fetched_is_not_fetched_again_and_cannot_be_written(self, store, sources, bundles):
        store.put(bundles / "1", "net")
        sources("s3://models").start()
        passed = store.proxy.passed
        again = sources("s3://models")
        again.start()
        (home,) = models(again).values()
        assert store.proxy.passed - passed < 10_000
        real = (home / "bundle.json").resolve()
        assert not (stat.S_IMODE(real.stat().st_mode) | stat.S_IMODE(real.parent.stat().st_mode)) & 0o222

    def test_a_break_is_resumed_where_it_was(self, store, sources, bundles, caplog):
        caplog.set_level(logging.INFO)
        store.put(bundles / "1", "net")
        size = sum(file.stat().st_size for file in (bundles / "1").iterdir())
        store.proxy.cuts = [size // 2]
        fetched = sources("s3://models")
        fetched.start()
        assert models(fetched).keys() == {"net/1"}
        assert "broke off after" in caplog.text
        assert store.proxy.passed < 1.3 * size

    def test_a_fetch_that_ended_in_the_middle_goes_on_from_there(self, store, sources, bundles, monkeypatch):
        monkeypatch.setattr("service.sources.download.TRIES", 1)
        store.put(bundles / "1", "net")
        size = sum(file.stat().st_size for file in (bundles / "1").iterdir())
        fetched = sources("s3://models")
        store.proxy.cuts = [size // 2, 1, 1, 1, 1, 1]
        with pytest.raises(StartError, match="s3://models cannot be fetched"):
            fetched.start()
        store.proxy.cuts, passed = [], store.proxy.passed
        sources("s3://models").start()
        assert models(fetched).keys() == {"net/1"}
        assert store.proxy.passed - passed < 0.8 * size

    def test_a_new_version_replaces_the_old_one_and_leaves_the_others_alone(self, store, sources, bundles):
        store.put(bundles / "1", "net")
        store.put(bundles / "1", "other")
        fetched = sources("s3://models")
        fetched.start()
        before = {place: (home / "bundle.json").stat() for place, home in models(fetched).items()}
        store.put(bundles / "2", "net")
        assert fetched.refresh() == []
        found = models(fetched)
        assert found.keys() == {"net/2", "other/1"}
        assert (found["other/1"] / "bundle.json").stat() == before["other/1"]
        store.client.delete_object(Bucket="models", Key="other/bundle.json")
        fetched.refresh()
        assert models(fetched).keys() == {"net/2"}
        fetched.refresh()
        store.put(bundles / "1", "net")
        fetched.refresh()
        assert models(fetched).keys() == {"net/1"}

    def test_a_damaged_bundle_changes_nothing_until_it_is_whole(self, store, sources, bundles):
        store.put(bundles / "1", "net")
        store.put(bundles / "1", "other")
        fetched = sources("s3://models")
        fetched.start()
        weights = bytearray((bundles / "2" / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        store.put(bundles / "2", "net")
        store.put(bundles / "2", "other")
        store.client.put_object(Bucket="models", Key="net/model.safetensors", Body=bytes(weights))
        (problem,) = fetched.refresh()
        assert "net stays as it was" in problem
        assert "hash" in problem
        assert models(fetched).keys() == {"net/1", "other/2"}
        assert fetched.told == {"s3://models": False}
        store.put(bundles / "2", "net")
        assert fetched.refresh() == []
        assert models(fetched).keys() == {"net/2", "other/2"}
        assert fetched.told == {"s3://models": True}

    def test_what_the_cache_has_is_served_while_the_store_is_down(self, store, sources, bundles, caplog):
        store.put(bundles / "1", "net")
        sources("s3://models").start()
        store.proxy.is_down = True
        fetched = sources("s3://models")
        fetched.start()
        assert models(fetched).keys() == {"net/1"}
        assert "s3://models cannot be fetched" in caplog.text
        assert "what the cache has of it is served" in caplog.text

    def test_an_emptied_store_leaves_what_was_fetched(self, store, sources, bundles):
        store.put(bundles / "1", "net")
        fetched = sources("s3://models")
        fetched.start()
        for name in ("bundle.json", "model.safetensors"):
            store.client.delete_object(Bucket="models", Key=f"net/{name}")
        assert "no bundle.json" in fetched.refresh()[0]
        assert models(fetched).keys() == {"net/1"}

    def test_without_a_cache_the_start_fails_with_a_sentence_that_has_no_secrets(self, store, sources, bundles):
        store.proxy.is_down = True
        with pytest.raises(StartError, match="there is no model to serve: s3://models cannot be fetched") as raised:
            sources("s3://models").start()
        assert "secret" not in str(raised.value)

    def test_a_store_that_is_down_does_not_keep_other_sources(self, store, sources, copied):
        store.proxy.is_down = True
        fetched = sources(f"{copied}, s3://models")
        fetched.start()
        assert models(fetched).keys() == {"local/1"}
        assert fetched.told == {"s3://models": False}

    def test_two_processes_fetch_one_after_the_other(self, store, sources, bundles):
        store.put(bundles / "1", "net")
        both = [sources("s3://models"), sources("s3://models")]
        threads = [threading.Thread(target=one.start) for one in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.proxy.passed < 1.5 * sum(file.stat().st_size for file in (bundles / "1").iterdir())
        assert [models(one).keys() for one in both] == [{"net/1"}] * 2


class TestHub:
    def test_a_repository_with_a_bundle_at_its_root_is_a_model(self, hub, sources, contents):
        files = contents("1")
        hub.commit("somebody/net", "main", files | {".gitattributes": b"*"})
        fetched = sources("hf://somebody/net")
        fetched.start()
        found = models(fetched)
        assert found.keys() == {"net/1"}
        assert content(found["net/1"]) == files
        assert {key for path, _, key in hub.asked if "somebody" in path} == {"Bearer hf_secret"}

    def test_a_branch_is_followed_and_a_commit_is_not(self, hub, sources, contents):
        commit = hub.commit("somebody/net", "main", contents("1"))
        branch, fixed = sources("hf://somebody/net@main"), sources(f"hf://somebody/net@{commit}")
        for one in (branch, fixed):
            one.start()
        hub.commit("somebody/net", "main", contents("2"))
        for one in (branch, fixed):
            assert one.refresh() == []
        assert models(branch).keys() == {"net/2"}
        assert models(fixed).keys() == {"net/1"}

    def test_a_folder_that_is_called_like_the_repository_does_not_mix_with_its_root(self, hub, sources, contents):
        files = contents("1")
        hub.commit("somebody/net", "main", files | {f"net/{name}": value for name, value in contents("2").items()})
        fetched = sources("hf://somebody/net")
        fetched.start()
        assert content(models(fetched)["net/1"]) == files

    def test_folders_of_a_repository_are_models(self, hub, sources, contents):
        files = {f"{folder}/{name}": value for folder in ("a", "b/3") for name, value in contents("1").items()}
        hub.commit("somebody/nets", "v1", files)
        fetched = sources("hf://somebody/nets@v1")
        fetched.start()
        assert models(fetched).keys() == {"a/1", "b/3"}

    def test_a_break_is_resumed(self, hub, sources, contents, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what it resumes from
        files = contents("1")
        hub.commit("somebody/net", "main", files)
        hub.proxy.cuts = [400_000]
        fetched = sources("hf://somebody/net")
        fetched.start()
        assert content(models(fetched)["net/1"]) == files
        assert any(span for _, span, _ in hub.asked)

    def test_a_damaged_file_is_not_taken(self, hub, sources, contents):
        hub.commit("somebody/net", "main", contents("1"))
        hub.damage = lambda value: value[:-1] + bytes([value[-1] ^ 1])
        fetched = sources("hf://somebody/net")
        with pytest.raises(StartError, match="is damaged"):
            fetched.start()
        hub.damage = lambda value: value
        fetched.start()
        assert models(fetched).keys() == {"net/1"}

    def test_no_such_repository_is_a_sentence(self, hub, sources):
        with pytest.raises(StartError, match="hf://somebody/none@main cannot be fetched") as raised:
            sources("hf://somebody/none").start()
        assert "hf_secret" not in str(raised.value)


class TestArchive:
    @pytest.mark.parametrize("kind", ["tar.gz", "zip"])
    def test_an_archive_is_a_folder_of_models(self, site, sources, contents, kind):
        files = {f"{place}{name}": value for place in ("", "b/", "c/5/") for name, value in contents("1").items()}
        fetched = sources(placed(site, f"/net.{kind}", archived(files, kind)))
        fetched.start()
        assert models(fetched).keys() == {"net/1", "b/1", "c/5"}
        site.proxy.is_down = True
        assert fetched.refresh() == []  # its digest says that it never changes

    def test_a_break_is_resumed_also_by_the_next_process(self, site, sources, contents, monkeypatch):
        monkeypatch.setattr("service.sources.download.TRIES", 1)
        value = archived(contents("1"))
        fetched = sources(placed(site, "/net.tgz", value))
        site.proxy.cuts = [400_000, 700, 700]
        with pytest.raises(StartError):
            fetched.start()
        site.proxy.cuts = []
        fetched.start()
        assert models(fetched).keys() == {"net/1"}
        assert site.asked[-1][1].startswith("bytes=")

    def test_a_server_without_parts_sends_it_again(self, site, sources, contents):
        site.has_parts, site.proxy.cuts = False, [400_000]
        fetched = sources(placed(site, "/net.tgz", archived(contents("1"))))
        fetched.start()
        assert models(fetched).keys() == {"net/1"}

    def test_a_beginning_of_another_archive_is_thrown_away(self, site, sources, contents, monkeypatch):
        monkeypatch.setattr("service.sources.download.TRIES", 1)
        good = archived(contents("1"))
        location = placed(site, "/net.tgz", good)
        site.files["/net.tgz"], site.proxy.cuts = bytes(len(good)), [400_000]
        fetched = sources(location)
        with pytest.raises(StartError):
            fetched.start()
        site.files["/net.tgz"], site.proxy.cuts = good, []
        fetched.start()
        assert models(fetched).keys() == {"net/1"}

    def test_another_digest_is_refused(self, site, sources, contents):
        location = placed(site, "/net.tgz", archived(contents("1")))
        site.files["/net.tgz"] = archived(contents("2"))
        with pytest.raises(StartError, match="not the archive that the digest names"):
            sources(location).start()

    def test_nothing_is_written_elsewhere(self, site, sources, contents, tmp_path):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            evil = {"../../evil": b"x", "/tmp/lccl-evil": b"x", "net/../../evil": b"x"}
            for name, value in ({f"net/{name}": value for name, value in contents("1").items()} | evil).items():
                member = tarfile.TarInfo(name)
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
            link = tarfile.TarInfo("net/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        fetched = sources(placed(site, "/net.tar", out.getvalue()))
        fetched.start()
        (home,) = models(fetched).values()
        assert content(home).keys() == contents("1").keys()
        assert not list(tmp_path.rglob("*evil*"))
        assert not os.path.exists("/tmp/lccl-evil")

    @pytest.mark.parametrize("bound", ["MOST_BYTES", "MOST_MEMBERS"])
    def test_its_size_is_bounded(self, site, sources, contents, monkeypatch, bound):
        files = contents("1")
        location = placed(site, "/net.tgz", archived(files))
        enough = sum(map(len, files.values())) if bound == "MOST_BYTES" else len(files)
        monkeypatch.setattr(f"service.sources.archive.{bound}", enough - 1)
        with pytest.raises(StartError, match="more than"):
            sources(location).start()
        monkeypatch.setattr(f"service.sources.archive.{bound}", enough)
        sources(location).start()

    @pytest.mark.parametrize("value", [b"no archive", archived({"net/bundle.json": b"{}"})[:-30]], ids=["text", "cut"])
    def test_what_is_no_archive_is_a_sentence(self, site, sources, value):
        with pytest.raises(StartError, match="no readable archive"):
            sources(placed(site, "/net.tgz", value)).start()

    def test_secrets_are_sent_to_the_host_and_told_to_nobody(self, site, sources, contents, caplog):
        caplog.set_level(logging.DEBUG)
        value = archived(contents("1"))
        address, digest = site.proxy.address, sha256(value).hexdigest()
        site.redirects["/net.tgz"] = f"https://localhost:{site.server_address[1]}/real.tgz?signature=hidden"
        location = f"https://me:hidden@{address}/net.tgz?token=hidden#sha256={digest}"
        with pytest.raises(StartError) as raised:  # the other host's certificate is for another name
            sources(location).start()
        assert site.asked[-1] == ("/net.tgz?token=hidden", None, "Basic bWU6aGlkZGVu")
        site.redirects["/net.tgz"] = f"https://{address}/real.tgz?signature=hidden"
        site.files["/real.tgz"] = value
        fetched = sources(location)
        fetched.start()
        assert models(fetched).keys() == {"net/1"}
        assert site.asked[-1] == ("/real.tgz?signature=hidden", None, None)
        told = f"{raised.value} {caplog.text} {fetched.told} {parse_locations(location)!r} {fetched.folders}"
        assert "hidden" not in told

    def test_a_redirect_away_from_https_is_refused(self, site, sources, contents):
        value = archived(contents("1"))
        location = placed(site, "/net.tgz", value)
        site.redirects["/net.tgz"] = "http://127.0.0.1/net.tgz?key=hidden"
        with pytest.raises(StartError, match="is not https") as raised:
            sources(location).start()
        assert "hidden" not in str(raised.value)

    def test_a_cache_that_cannot_be_written_is_a_sentence(self, site, sources, contents, tmp_path):
        (tmp_path / "cache").write_text("")
        with pytest.raises(StartError, match="cannot be fetched"):
            sources(placed(site, "/net.tgz", archived(contents("1")))).start()


def test_a_folder_is_read_where_it_is(sources, copied, tmp_path):
    local = sources(str(copied))
    local.start()
    assert local.folders == (copied,)
    assert not local.fetched
    assert not (tmp_path / "cache").exists()
    shutil.rmtree(copied)
    local.start()


@pytest.mark.parametrize(("text", "package"), [("s3://models", "boto3"), ("hf://somebody/net", "huggingface_hub")])
def test_a_client_that_is_not_installed_ends_the_start(sources, copied, monkeypatch, text, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StartError, match=f"needs the package {package}: pip install"):
        sources(f"{copied},{text}")
