"""A bundle's files, changed so that only what is changed can be wrong."""

import hashlib
import json

import pytest

from lccl.bundle import format as bundles
from lccl.errors import BundleError

DESCRIPTION, WEIGHTS = "bundle.json", "model.safetensors"


def read(folder):
    return json.loads((folder / DESCRIPTION).read_text())


def write(folder, description):
    """Write a description with the digest that belongs to it: SHA-256 over its sorted, unspaced ASCII form."""
    rest = {name: value for name, value in description.items() if name != "digest"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(rest | {"digest": digest}))


def edit(folder, **changes):
    write(folder, read(folder) | changes)


def write_weights(folder, content):
    """Write weights with the hash that belongs to them, so that only what they hold can be wrong."""
    (folder / WEIGHTS).write_bytes(content)
    edit(folder, files={WEIGHTS: hashlib.sha256(content).hexdigest()})


def refused(folder, match):
    with pytest.raises(BundleError, match=match) as caught:
        bundles.load(folder)
    assert "\n" not in str(caught.value)
