"""Multipart forms: what clients send is read, and what is cut, doubled or too long is refused with its cause."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.turns import LoopTurns
from service.api.v1.forms import MAX_EPILOGUE, MAX_FIELD_BYTES, MAX_FIELDS, SLICE, read_form
from tests.service.engines import wait_for
from tests.service.refusals import refused

CUT_FORM = Path(__file__).parents[5] / "shared" / "faults" / "cut_multipart.bin"
FORM = "multipart/form-data; boundary=XX"
END = b"--XX--\r\n"


def read(body, content_type=FORM, most=3):
    return asyncio.run(read_form(content_type, body, most, LoopTurns()))


def part(content, *headers, disposition=b'form-data; name="file"; filename="a.png"', boundary=b"XX"):
    lines = [b"--" + boundary, b"Content-Disposition: " + disposition, *headers, b"", content]
    return b"\r\n".join(lines) + b"\r\n"


def named(name, value=b"0.3"):
    return part(value, disposition=b'form-data; name="%b"' % name)


def post(client, body, content_type=FORM):
    return client.post("/v1/classify", content=body, headers={"Content-Type": content_type})


WHOLE = part(b"first") + named(b"sparsity") + part(b"last") + b"--XX--"


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_form_that_ends_early_is_refused_wherever_it_ends(length):
    with refused("malformed"):
        read(WHOLE[:length])
    assert read(WHOLE) == ([b"first", b"last"], {"sparsity": "0.3"})


@pytest.mark.skipif(not CUT_FORM.exists(), reason="the files of faults found from outside are not beside this checkout")
def test_the_example_of_a_cut_form_is_refused(client):
    answer = post(client, CUT_FORM.read_bytes())
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert "ended early" in answer.json()["detail"]


def test_a_cut_form_is_refused_over_http_whatever_was_cut(client, draw_image):
    whole = part(draw_image()) + named(b"sparsity") + END
    assert post(client, whole).status_code == 200
    for length in (len(whole) - len(END), len(whole) - 40, 30, 2):
        answer = post(client, whole[:length])
        assert answer.status_code == 400
        assert "ended early" in answer.json()["detail"]


def test_a_chunked_body_without_its_end_is_no_request(client, draw_image):
    """Also where the form itself is whole."""
    left = client.app.state.metrics.rejected.labels("small", "client_gone")
    before, body = left._value.get(), part(draw_image()) + END
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"%x\r\n%b\r\n" % (len(body), body))
    wait_for(lambda: left._value.get() == before + 1)


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"\r\n \t\n" * 5])
def test_blanks_behind_the_end_are_no_matter(behind):
    assert read(part(b"image") + b"--XX--" + behind)[0] == [b"image"]


@pytest.mark.parametrize(
    "behind", [b"x", b"\r\n" + part(b"more"), b"\r\n" + part(b"more") + END, b" " * (MAX_EPILOGUE + 1)]
)
@pytest.mark.parametrize("before", [part(b"image"), part(b"x" * (SLICE - 70)), part(b"x" * SLICE)])
def test_more_behind_the_end_is_refused(before, behind):
    with refused("malformed", "behind its end"):
        read(before + b"--XX--" + behind)


def test_a_form_without_parts_has_no_image(client):
    assert read(END) == read(b"\r\n" + END) == ([], {})
    assert "holds no image" in post(client, END).json()["detail"]


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="file"',
        b"form-data; name=file",
        b"form-data; name=\"file\"; filename*=UTF-8''a%20b.png",
        b'form-data; name="file"; filename=""',
        b'FORM-DATA; NAME="file"; FileName="a;b\\".png"',
    ],
)
def test_a_part_named_file_is_a_file_whatever_its_filename(client, draw_image, disposition):
    image = draw_image(size=(40, 40))
    assert len(image) > MAX_FIELD_BYTES
    assert read(part(image, disposition=disposition) + END) == ([image], {})
    assert post(client, part(image, disposition=disposition) + END).status_code == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_may_send_a_file_as_a_field(client, draw_image, tmp_path):
    (tmp_path / "a.png").write_bytes(draw_image(size=(60, 60)))
    for form in ("file=<a.png", "file=@a.png"):
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{client.base_url}/v1/classify", "-F", form]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "200"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (named(b"sparsity") * 2, "invalid_field", "sparsity is given twice"),
        (named(b"sparsity", b"x" * (MAX_FIELD_BYTES + 1)), "too_large", "'sparsity' has more than 1,024 bytes"),
        (named(b"photo", b"x" * 5000), "too_large", "images are parts named 'file'"),
        (named(b"%d") * (MAX_FIELDS + 1), "too_large", "more fields in one request than the 16"),
        (part(b"x") * 4, "too_large", "more files in one request than the 3"),
        (part(b"\r\n--XX" * 40), "too_large", "more parts"),
        (part(b"x", disposition=b'form-data; name="photo"; filename="a"'), "invalid_field", "name every file 'file'"),
        (part(b"x", disposition=b"form-data; name=photo; filename*=''a"), "invalid_field", "name every file 'file'"),
        (part(b"x", disposition=b"form-data"), "malformed", "without a name"),
        (part(b"x", b'Content-Disposition: form-data; name="sparsity"'), "malformed", "two Content-Dispositions"),
        (b"--XX\r\n\r\nx\r\n", "malformed", "without a name"),
        (part(b"x", b"X: " + b"y" * 5000), "malformed", "boundary and headers"),
        (part(b"x", b"X Y: z"), "malformed", "boundary and headers"),
    ],
)  # fmt: skip
def test_what_a_form_may_not_have_is_refused_with_its_cause(body, code, text):
    with refused(code, text):
        read(body + END)


def test_fields_have_their_limit_and_files_another():
    value = b"x" * MAX_FIELD_BYTES
    assert read(named(b"layer", value) + part(b"y" * 300_000) + END) == ([b"y" * 300_000], {"layer": value.decode()})


@pytest.mark.parametrize(
    ("boundary", "quoted"),
    [(b"a b", True), (b"--", False), (b"'()+_,-./:=?", True), (b"x" * 200, False), (b"a;b", True)],
)
def test_boundaries_of_odd_syntax_are_read(boundary, quoted):
    name = f'"{boundary.decode()}"' if quoted else boundary.decode()
    body = part(b"image", boundary=boundary) + b"--" + boundary + b"--"
    for content_type in (f"multipart/form-data; boundary={name}", f"Multipart/Form-Data;charset=x;BOUNDARY={name}"):
        assert read(body, content_type) == ([b"image"], {})


@pytest.mark.parametrize(
    "given", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 300, "; boundary*=XX", "; boundary"]
)
def test_a_form_without_a_boundary_is_refused(given):
    with refused("malformed", "multipart body cannot be read"):
        read(WHOLE, "multipart/form-data" + given)


@given(
    contents=st.lists(
        st.binary(max_size=20).filter(lambda one: b"--XX" not in one)
        | st.sampled_from([b"\r\n--X", b"\r\n--X\r", b"x--XX--", b"\r", b"\r\n"]),
        max_size=3,
    ),
    padding=st.integers(-60, 10),
)
def test_files_arrive_as_they_were_sent_wherever_slices_end(contents, padding):
    sent = [b"p" * (SLICE + padding), *contents]
    assert read(b"".join(part(content) for content in sent) + END, most=4) == (sent, {})
