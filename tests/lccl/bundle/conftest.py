"""A bundle to change."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(models_folder, tmp_path):
    return Path(shutil.copytree(models_folder / "small", tmp_path / "model"))
