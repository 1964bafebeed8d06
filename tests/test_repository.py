"""What the README shows runs; imports go one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def run_block(number: int) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(BLOCKS[number], f"README.md block {number}", "exec"), names)
    return names


@pytest.mark.parametrize(("number", "said"), [(0, "'.'"), (1, "Wait")])
def test_readme_code_runs(number: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_block(number)
    assert said in capsys.readouterr().out


def test_the_study_of_the_readme_runs(tmp_path: Path) -> None:
    from analyses.studies.run import run_study

    assert len(BLOCKS) == 3
    result = run_study(run_block(2)["EachWord"](), n=4, out=tmp_path / "each", max_new_tokens=30)
    assert {"baseline", "Okay", "Wait", "Hmm"} <= set(result.table["condition"])
    assert (tmp_path / "each" / "report.html").is_file()


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


def test_one_error_is_raised_by_both_packages_and_survives_another_process():
    import pickle

    import interp.errors
    import probes.errors

    assert Path(interp.errors.__file__).read_text() == Path(probes.errors.__file__).read_text()
    assert interp.errors.InputError is probes.errors.InputError
    error = probes.errors.InputError("op", expected="a", received="b", remedy="Do c.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is interp.errors.InputError
    assert str(again) == str(error) == "op: expected a, received b. Do c."
