"""The one-way dependencies of the code base, read from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("qcore", ("app", "PySide6", "torchvision")),
        ("app", ("torchvision",)),
        ("app/ui", ("torch", "sam2", "torchvision")),
        ("app/project", ("torch", "PySide6")),
        ("app/formats", ("torch", "PySide6")),
    ],
)
def test_modules_import_only_what_their_layer_may(folder: str, forbidden: tuple[str, ...]) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if module.split(".")[0] in forbidden
    ]
    assert found == []
