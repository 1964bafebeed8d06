"""What the README shows runs; imports go one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_code_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(BLOCKS[number], f"README.md block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert ("'.'" in printed) if number == 0 else ("Wait" in printed)


def test_the_notebook_use_is_under_ten_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) < 10


@pytest.mark.parametrize(
    ("package", "forbidden"), [("interp", {"probes", "analyses"}), ("probes", {"interp", "analyses"})]
)
def test_imports_go_one_way(package: str, forbidden: set[str]) -> None:
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules = [node.module]
            assert not {m.split(".")[0] for m in modules} & forbidden, f"{file}:{node.lineno}"
