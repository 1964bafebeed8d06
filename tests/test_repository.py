"""What the README shows runs; what the architecture names is there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from processes import Command

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN = (ROOT / "docs" / "OWN_STUDY.md").read_text(encoding="utf-8")
ATTRIBUTION = (ROOT / "docs" / "ATTRIBUTION.md").read_text(encoding="utf-8")
RESPONSES = (ROOT / "docs" / "RESPONSES.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for named, block in fenced if named == language]


BLOCKS = [(page, block) for page in (README, ATTRIBUTION) for block in blocks(page, "python")]


def run_block(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(source, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_code_runs_and_says_what_stands_below_it(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    page, block = BLOCKS[number]
    run_block(block)
    shown = page.split(block)[1].split("```\n")[2]
    assert capsys.readouterr().out == shown


def test_the_study_of_the_documents_runs(tmp_path: Path) -> None:
    from analyses.studies.run import run_study

    (source,) = blocks(OWN, "python")
    result = run_study(run_block(source)["EachWord"](), n=4, out=tmp_path / "each", max_new_tokens=30)
    assert {"baseline", "Okay", "Wait", "Hmm"} <= set(result.table["condition"])
    assert (tmp_path / "each" / "report.html").is_file()


def shell_lines(text: str) -> list[str]:
    """Commands of the blocks without a language and of inline code, one a line, without their comments."""
    found = [line for block in blocks(text, "") for line in block.replace("\\\n", " ").splitlines()]
    found += re.findall(r"`((?:peaklens|make|python -m) [^`]+)`", text)
    lines = [re.sub(r"\s+# .*", "", line).strip() for line in found]
    return [line for line in lines if re.match(r"(peaklens|make|python|\. )", line)]


LINES = [line for text in (README, OWN, ATTRIBUTION, RESPONSES) for line in shell_lines(text)]


def test_the_shell_lines_are_found() -> None:
    assert len(LINES) > 15
    for line in ("make demo", ". .venv/bin/activate", "peaklens models pull smollm2-135m-instruct"):
        assert line in LINES


@pytest.mark.parametrize("line", dict.fromkeys(LINES))
def test_every_shell_line_is_one_that_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, options and values are taken as they are typed; what takes long is not run."""
    from typer.main import get_command

    from analyses.commands.cli import app
    from analyses.studies import find_study

    program, *words = shlex.split(line)
    if program == "make":
        assert f"\n{words[0]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    elif program == "python":
        assert importlib.util.find_spec(words[words.index("-m") + 1]) is not None
    elif program == "peaklens":
        monkeypatch.chdir(tmp_path)
        (source,) = blocks(OWN, "python")
        (tmp_path / "each_word.py").write_text(source, encoding="utf-8")
        command, context, name = get_command(app), None, program
        while hasattr(command, "resolve_command") and words and not words[0].startswith("-"):
            context = command.make_context(name, list(words), parent=context)
            name, command, words = command.resolve_command(context, words)
        if not {"--help", "--version", "--install-completion"} & set(words):
            context = command.make_context(name, list(words), parent=context)
            if name == "study" and context.params["name"]:
                find_study(context.params["name"])
    else:
        assert line == ". .venv/bin/activate"


@pytest.mark.parametrize(
    "line",
    [line for line in dict.fromkeys(LINES) if re.match(r"peaklens (study$|generate|doctor|study [a-z]+ --help)", line)],
)
def test_quick_shell_lines_run(line: str, peaklens: Command) -> None:
    code, out, said = peaklens(*shlex.split(line)[1:])
    assert code == 0, said
    assert out


def test_every_option_that_the_documents_name_is_an_option() -> None:
    from typer.main import get_command

    from analyses.commands.cli import app

    known = {"--help", "--install-completion"}
    waiting = [get_command(app)]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        known |= {option for parameter in command.params for option in parameter.opts}
    assert sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README + OWN + RESPONSES)) - known) == []


def test_the_readme_is_short_and_every_file_it_links_is_there() -> None:
    assert len(README.splitlines()) < 290
    for text, folder in ((README, ROOT), (OWN, ROOT / "docs")):
        links = re.findall(r"\]\(([^)#:]+)\)", text)
        assert [link for link in links if not (folder / link).exists()] == []


def test_the_notebook_use_is_under_ten_lines() -> None:
    assert len([line for line in BLOCKS[0][1].splitlines() if line.strip()]) < 10


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
