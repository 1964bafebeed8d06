"""What the README shows runs; what the architecture names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
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


PATHS = re.findall(r"(?<![\w/.])(?:interp|probes|analyses|tests)/[\w/.]*", ARCHITECTURE)


def test_every_path_that_the_architecture_names_exists() -> None:
    assert len(PATHS) > 30
    assert [path for path in PATHS if not (ROOT / path).exists()] == []


def test_the_architecture_names_every_room_and_module_of_its_list() -> None:
    """The list of rooms is the folder list: what stands indented below a package is there, and nothing is left out."""
    listed = re.search(r"## The rooms.*?```\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert listed is not None
    named: dict[str, set[str]] = {}
    package = ""
    for line in listed[1].splitlines():
        if line and not line.startswith(" "):
            package = line.split("/")[0]
        else:
            named.setdefault(package, set()).update(re.findall(r"\w+(?:\.py|/)", line))
    for package, names in named.items():
        missing = [name for name in names if not (ROOT / package / name).exists()]
        assert missing == []
        own = {
            f"{path.name}{'' if path.suffix else '/'}"
            for path in (ROOT / package).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").is_file()
        }
        assert own - named[package] <= {"__init__.py", "errors.py", "types.py", "foreign.py"}, package


def test_every_folder_says_what_lives_there_and_what_may_not() -> None:
    for package in ("interp", "probes", "analyses"):
        for file in (ROOT / package).rglob("__init__.py"):
            said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            assert said.count(".") >= 2, f"{file} says too little"


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
