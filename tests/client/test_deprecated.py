"""Names of the previous release, which work for one release and warn."""

from __future__ import annotations

import importlib

import pytest
from typer.testing import CliRunner

import lccl_client
from lccl_client.cli import app


def test_names_of_the_previous_release_warn():
    for name, now in (("WishError", "QualityError"), ("PictureError", "ImageError")):
        for module in (lccl_client, lccl_client.errors):
            with pytest.warns(DeprecationWarning, match=now):
                assert getattr(module, name) is getattr(lccl_client, now)
    with pytest.warns(DeprecationWarning, match="lccl_client.images"):
        assert importlib.import_module("lccl_client.pictures").encoded(b"image") == b"image"
    with pytest.raises(AttributeError, match="HopeError"):
        _ = lccl_client.HopeError
    result = CliRunner().invoke(app, ["bench", "http://127.0.0.1:1", "--rate", "1", "--pictures", "/nowhere"])
    assert "--pictures is now --images" in result.output
    assert "/nowhere" in result.output
