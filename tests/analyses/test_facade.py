"""One name for all of it: complete, typed, and without a model library until one is needed."""

from __future__ import annotations

import ast
import importlib
import os
import pydoc
import subprocess
import sys
from pathlib import Path

import peaklens as pl
import pytest

import interp
import probes

ROOT = Path(__file__).parents[2]
SOURCE = Path(pl.__file__).read_text(encoding="utf-8")
# What is asked for by name in analyses: the functions a notebook begins with.
CALLED = {
    "trace", "TraceRun", "Trajectory", "run_study", "make_study", "Study", "Condition", "patch_sweep", "Problem",
    "load_problems", "bundled_problems", "logit_attribution", "matched_contrasts", "attribute_run", "patch_nodes",
    "patch_edges", "NodeEffects", "EdgeEffects", "nhsic_metric", "score_metric", "residual_metric", "mean_writes",
    "node_measure", "zero_writes", "mi_attribution", "MiAttribution", "Circuit", "receiver_heads", "sentence_receivers",
    "ReceiverHeads", "ablate_receivers", "load_responses", "export_responses", "Ray", "merge", "bundle", "log_to",
}  # fmt: skip
ROOMS = {"attribution", "interventions", "probes", "stats", "views", "studies", "grading"}


def test_every_public_name_is_there() -> None:
    assert set(pl.__all__) == set(interp.__all__) | set(probes.__all__) | CALLED | ROOMS
    assert set(pl.__all__) <= set(dir(pl))
    assert dir(pl) == sorted(dir(pl))


@pytest.mark.parametrize("home", [interp, probes])
def test_a_name_is_the_very_thing(home: object) -> None:
    for name in home.__all__:  # type: ignore[attr-defined]
        assert getattr(pl, name) is getattr(home, name), name


def test_rooms_and_functions_are_the_very_things() -> None:
    for name in ROOMS:
        module = getattr(pl, name)
        assert module is sys.modules[module.__name__]
        assert module.__name__.split(".")[-1] == name
    from analyses.attribution import patch_sweep
    from analyses.studies.run import run_study
    from analyses.trace import TraceRun, Trajectory, trace

    assert (pl.trace, pl.TraceRun, pl.Trajectory) == (trace, TraceRun, Trajectory)
    assert (pl.patch_sweep, pl.run_study) == (patch_sweep, run_study)
    assert pl.InputError.__module__ == "peaklens"
    with pytest.raises(pl.InputError, match=r"answer_log_probability: "):
        pl.answer_log_probability("")
    with pytest.raises(AttributeError, match="module 'peaklens' has no attribute 'nhsics'"):
        _ = pl.nhsics


def test_type_checkers_see_every_name_where_it_comes_from() -> None:
    """What is imported for type checkers alone is what is given at run time, and all of it."""
    tree = ast.parse(SOURCE)
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen: dict[str, object] = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            module = importlib.import_module(node.module)
            for alias in node.names:
                # A room is a module, the rest are its members.
                inside = f"{node.module}.{alias.name}"
                seen[alias.name] = sys.modules[inside] if alias.name in ROOMS else getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            seen |= {alias.name: importlib.import_module(alias.name) for alias in node.names}
    assert sorted(seen) == sorted(pl.__all__)
    assert [name for name, value in seen.items() if getattr(pl, name) is not value] == []
    (literal,) = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert ast.literal_eval(literal) == pl.__all__, "a type checker reads a list, not an expression"
    assert (Path(pl.__file__).parent / "py.typed").is_file()


def test_help_and_the_docstring_name_everything() -> None:
    shown = pydoc.plain(pydoc.render_doc(pl))
    entries = ("nhsic(steps", "read(", "class Rollout", "SCORES = ")
    assert [entry for entry in entries if entry not in shown] == [], "members are listed, not only told of"
    words = set(shown.replace(",", " ").replace("(", " ").replace(";", " ").split())
    assert [name for name in pl.__all__ if name not in words] == []
    said = set((pl.__doc__ or "").replace(",", " ").replace("(", " ").replace(";", " ").replace(":", " ").split())
    assert [name for name in pl.__all__ if name not in said] == []


def test_looking_around_imports_no_model_library() -> None:
    code = (
        "import sys, rlcompleter, peaklens as pl\n"
        "names = dir(pl)\n"
        "assert {'nhsic', 'trace', 'load_model', 'views', '__version__'} <= set(names)\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'analyses', 'interp', 'probes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert pl.__version__ and pl.InputError and pl.views and not {'torch', 'numpy'} & set(sys.modules)"
    )
    paths = os.pathsep.join([str(ROOT), str(Path(pl.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr
