"""The playground's files as they are served; what they do in a browser is in ``tests/playground``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import service

FOLDER = Path(service.__file__).parent / "playground"
FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": "javascript", ".svg": "image/svg+xml"}


def test_the_page_is_at_the_root_under_a_strict_policy(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["X-Frame-Options"] == "DENY"
    policy = answer.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert "sha256" not in policy


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_as_what_it_is_and_asked_for_again(client, name):
    answer = client.get(f"/playground/{name}")
    assert answer.status_code == 200
    assert TYPES[Path(name).suffix] in answer.headers["Content-Type"]
    assert answer.headers["Cache-Control"] == "no-cache"
    again = client.get(f"/playground/{name}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_nothing_in_it_is_inline_or_from_elsewhere(client):
    page = client.get("/").text
    assert not re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|javascript:", page)
    for source in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert not source.startswith(("http", "/"))
        assert client.get(f"/{source}").status_code == 200
    for name in FILES:
        text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(r"https?://|@import|\surl\(", text), name
        for imported in re.findall(r'from "\./([^"]+)"', text):
            assert imported in FILES


def test_every_file_is_used(client):
    everything = client.get("/").text + "".join((FOLDER / name).read_text() for name in FILES)
    assert [name for name in FILES if name not in everything] == ["index.html"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "%2e%2e", "%2fetc%2fpasswd", "main.js%00", "%ff"])
def test_other_files_are_not_served(client, name):
    answer = client.get(f"/playground/{name}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_it_goes_with_the_documentation(serve):
    with serve(docs=False) as client:
        assert client.get("/").status_code == 404
        assert "slash" not in client.get("/").text
        assert client.get("/playground/main.js").status_code == 404


def test_it_is_not_among_the_documented_routes(client):
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "playground" in path or path == "/"]
