"""Files of API keys."""

from __future__ import annotations

import hashlib

import pytest


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def write(tmp_path):
    """Writes a key file that only its owner may write to."""

    def _write(text, mode=0o600):
        path = tmp_path / "keys.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return _write


@pytest.fixture
def three(write):
    """A file with the keys ``one``, ``two`` and ``boss``, whose texts are their names."""
    return write(
        f'[keys.one]\nsha256 = "{digest("one")}"\n'
        f'[keys.two]\nsha256 = "{digest("two")}"\nrate = "2/minute"\n'
        f'[keys.boss]\nsha256 = "{digest("boss")}"\nadmin = true\n'
    )
