"""The folder of the service stands by itself: its modules import each other relatively, under whatever name it has."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import service

FOLDER = Path(service.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_modules_import_each_other_relatively(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not [name.name for name in node.names if name.name.partition(".")[0] == FOLDER.name]
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.partition(".")[0] != FOLDER.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_files_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
