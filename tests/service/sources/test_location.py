"""What LCCL_MODELS may say, and texts without the secrets of URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.sources.location import Archive, Bucket, Folder, Repository, folder_name, parse_locations, redacted

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("models", Folder(Path("models"))),
        ("/srv/my models", Folder(Path("/srv/my models"))),
        ("s3://bucket/some/prefix/", Bucket("bucket", "some/prefix")),
        ("s3://bucket", Bucket("bucket", "")),
        ("hf://owner/name@v1.0", Repository("owner/name", "v1.0")),
        ("hf://owner/name", Repository("owner/name", "main")),
        (f"https://h/a.tar.gz?b=c#sha256={DIGEST}", Archive("https://h/a.tar.gz?b=c", DIGEST)),
    ],
)
def test_a_location(text, location):
    assert parse_locations(text) == (location,)


def test_several_are_separated_by_commas(tmp_path):
    text = f"models, s3://bucket/prefix ,\nhf://owner/name,models,https://h/a.zip#sha256={DIGEST}"
    kinds = [type(location) for location in parse_locations(text)]
    assert kinds == [Folder, Bucket, Repository, Archive]


def test_a_folder_with_a_comma_is_that_folder(tmp_path):
    folder = tmp_path / "a, b"
    folder.mkdir()
    assert parse_locations(str(folder)) == (Folder(folder),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name a folder"),
        (",", "name a folder"),
        ("ftp://me:hidden@host/a.tar", "no source of models"),
        ("http://host/a.tar?key=hidden", "no source of models"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://bucket/a?key=hidden", "s3://bucket/prefix"),
        ("hf://name", "hf://owner/name@revision"),
        ("hf://owner/name@../..", "hf://owner/name@revision"),
        ("https://me:hidden@host/a.tar", "#sha256="),
        ("https://host/a.tar#sha256=12", "#sha256="),
        (f"https://host/a.rar?key=hidden#sha256={DIGEST}", "no archive"),
    ],
)
def test_what_is_no_location_is_a_sentence_without_secrets(text, says):
    with pytest.raises(ValueError, match=says) as raised:
        parse_locations(text)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hid@den@host/a/b.tar?x=hidden&y=hidden failed",
        "Max retries exceeded with url: /a/b?X-Amz-Signature=hidden (caused by)",
        "see 'https://hidden@host/?token=hidden', and s3://key:hidden@bucket",
    ],
)
def test_secrets_are_taken_out_of_texts(text):
    assert "hidden" not in redacted(text)
    assert "den@" not in redacted(text)


def test_folders_of_the_cache_are_told_apart_and_have_no_secrets():
    texts = ["s3://abc/d", "s3://abc-d", "hf://a/b@main", "hf://a/b@v2"]
    archives = [f"https://me:hidden@h/a.tar?key=hidden#sha256={DIGEST}", f"https://h/a.tar#sha256={DIGEST[::-1]}"]
    names = [folder_name(location) for location in parse_locations(",".join(texts + archives))]
    assert len(set(names)) == len(names)
    assert not any("hidden" in name or "/" in name for name in names)
    renewed = parse_locations(f"https://h/a.tar?key=another#sha256={DIGEST}")[0]
    assert folder_name(renewed) == names[4]
