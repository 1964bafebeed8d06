"""What the command tells of itself: version, completion, short options, a study's own options, and `doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from processes import Command

from analyses.commands.doctor import version
from analyses.studies import STUDIES, find_study, make_study
from analyses.studies.options import options_of

ROOT = Path(__file__).parents[2]
RUN = "import sys; sys.argv[0] = 'peaklens'; from analyses.commands.cli import main; main()"


def test_the_version_is_that_of_the_package(peaklens: Command) -> None:
    import importlib.metadata

    assert peaklens("--version")[:2] == (0, f"peaklens {importlib.metadata.version('peaklens')}\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("peaklens tra", ["trace"]),
        ("peaklens study sup", ["suppress"]),
        ("peaklens generate --model toy-", ["toy-base", "toy-reasoner"]),
        ("peaklens models pull smol", ["smollm2-135m-instruct"]),
    ],
)
def test_the_shell_completes_names_without_loading_a_library(typed: str, offered: list[str]) -> None:
    environment = {**os.environ, "_PEAKLENS_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    told = f"import atexit; atexit.register(lambda: sys.stderr.write(str('torch' in sys.modules))); {RUN}"
    command = [sys.executable, "-c", f"import sys; {told}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == offered
    assert done.stderr == "False"


def test_completion_can_be_installed() -> None:
    """The script that `--install-completion` writes; which shell it is for is here said, and not looked for."""
    environment = {**os.environ, "_PEAKLENS_COMPLETE": "source_bash"}
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "COMP_WORDS" in done.stdout
    assert "--install-completion" in subprocess.run([*command, "--help"], capture_output=True, text=True).stdout


def test_n_and_out_have_short_forms(peaklens: Command, tmp_path: Path) -> None:
    code, _, said = peaklens("trace", "-n", "1", "-o", str(tmp_path / "r"), "--max-new-tokens", "8", "--quiet")
    assert code == 0, said
    assert peaklens("report", str(tmp_path / "r"), "-o", str(tmp_path / "page.html"))[0] == 0
    assert (tmp_path / "page.html").is_file()
    for command in ("trace", "study"):
        assert "-n, --n" in peaklens(command, "--help")[1]


@pytest.mark.parametrize("name", STUDIES)
def test_the_help_of_a_study_lists_its_options_with_what_they_are_for(name: str, peaklens: Command) -> None:
    study = find_study(name)
    code, out, _ = peaklens("study", name, "--help")
    assert code == 0
    assert study.title in " ".join(out.split())
    options = options_of(study)
    assert [option.name for option in options] == [item.name for item in fields(study)]
    for option in options:
        assert len(option.help) > 10, f"the docstring of {name} says nothing of {option.name}"
        assert f"\n  {option.name}  " in out
        assert option.default in out.replace("\n", "").replace(" ", "")
    assert ("no options of its own" in out) == (not options)


@pytest.mark.parametrize("name", STUDIES)
def test_what_the_help_gives_as_default_is_the_default(name: str) -> None:
    """Typed in full, the defaults make the study that nothing typed makes."""
    given = {option.name: option.default for option in options_of(find_study(name)) if option.default}
    assert make_study(name, given) == make_study(name, {})


def test_help_may_come_before_the_name_and_a_wrong_name_is_said(peaklens: Command, tmp_path: Path) -> None:
    assert "Options of suppress" in peaklens("study", "--help", "suppress")[1]
    assert "lists a study's own options" in peaklens("study", "--help")[1]
    code, _, said = peaklens("study", "surpress", "--help")
    assert (code, "expected one of trajectories" in said) == (2, True)
    own = tmp_path / "asked_of_my_own.py"
    own.write_text(
        "from dataclasses import dataclass\nfrom analyses.studies.base import Study\n"
        "@dataclass(frozen=True)\nclass Own(Study):\n"
        "    name, title, source = 'own', 'A question', 'me'\n    often: int = 3\n"
        "    def tables(self, data): return {}\n    def figures(self, data, tables): return []\n"
        "    def reading(self, tables): return []\n"
    )
    assert "often  [a whole number; default: 3]" in peaklens("study", str(own), "--help")[1]


def test_doctor_finds_all_that_is_needed_here(peaklens: Command) -> None:
    code, out, said = peaklens("doctor", "--json")
    assert code == 0, said
    found = json.loads(out)
    rows = {row["what"]: row for row in found["findings"]}
    import torch

    assert rows["torch"]["found"] == torch.__version__
    assert rows["toy-reasoner"]["state"] == "ok"
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert {cache["what"] for cache in found["caches"]} == {"pulled models", "Hugging Face hub"}
    assert found["peaklens"] == version()


def test_doctor_says_what_is_missing_and_the_command_that_mends_it(tmp_path: Path) -> None:
    """Metadata that ask for more than there is: of a package that is not here, of a version that is not yet out."""
    folder = tmp_path / "peaklens-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: peaklens\nVersion: 0.0.1\nRequires-Python: >=3.11\n"
        "Requires-Dist: torch>=99\nRequires-Dist: numpy>=1\nRequires-Dist: is-not-here>=1\nProvides-Extra: more\n"
        'Requires-Dist: nor-is-this>=2; extra == "more"\nRequires-Dist: peaklens[last]; extra == "more"\n'
        'Provides-Extra: last\nRequires-Dist: numpy>=1; extra == "last"\n'
    )
    # Before what a checkout may have of its own: metadata of an editable install
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", RUN, "doctor"]
    how: dict[str, Any] = {"capture_output": True, "text": True, "env": environment, "cwd": tmp_path, "check": False}
    shown = subprocess.run(command, **how)
    assert shown.returncode == 1, shown.stderr
    mended = [line for line in shown.stdout.splitlines() if "pip install" in line]
    assert [line.split(" -m ")[0].split(". ")[0] for line in mended] == [
        "Missing: torch",
        "Missing: is-not-here",
        "Optional, and not here: extra more",
    ]
    assert [line.split(" -m ")[1] for line in mended] == [
        "pip install 'torch>=99'",
        "pip install 'is-not-here>=1'",
        "pip install 'nor-is-this>=2'",
    ]
    done = subprocess.run([*command, "--json"], **how)
    rows = {row["what"]: row for row in json.loads(done.stdout)["findings"]}
    assert (rows["numpy"]["state"], rows["torch"]["state"], rows["extra last"]["state"]) == ("ok", "missing", "ok")
    assert rows["extra more"]["found"] == "1 of 2 packages"
