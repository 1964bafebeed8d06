"""Studies that decode nothing, over responses that are there already: what they say of the run that decoded them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

from analyses.responses import export_responses
from analyses.studies import STUDIES as STUDY_NAMES
from analyses.studies import make_study
from analyses.studies.base import StudyResult
from analyses.studies.run import run_study
from interp import InputError, load_model

SMALL: dict[str, Any] = {"batch_size": 16, "layers": [-1]}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


ALL = 24
STUDIES: dict[str, tuple[int, dict[str, str]]] = {
    "information": (ALL, {"align": "end", "last": "1", "folds": "3", "permutations": "19", "reduce": "1"}),
    "bounds": (ALL, {"align": "end", "last": "1", "folds": "3"}),
    "trajectories": (4, {}),
    "tokens": (4, {"least": "2"}),
    "overlap": (2, {"measures": "r2", "draws": "20"}),
    "attribute": (1, {"most": "1", "classes": "digit", "measures": "", "draws": "20"}),
}
"""With how many problems, and with which options."""


pytestmark = pytest.mark.usefixtures("tables_alone")


@pytest.fixture(scope="module")
def decoded(model: Any, tables_alone: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyResult]:
    folder = tmp_path_factory.mktemp("decoded")
    return {
        name: run_study(make_study(name, options), model, n=n, out=folder / name, max_new_tokens=30, **SMALL)
        for name, (n, options) in STUDIES.items()
    }


@pytest.fixture(scope="module")
def exported(decoded: dict[str, StudyResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    (baseline,) = (decoded["tokens"].run.path.parent / "baselines").iterdir()
    out = tmp_path_factory.mktemp("exported") / "said.jsonl"
    assert export_responses(baseline, out) == (ALL, ALL)
    return out


@pytest.mark.parametrize("name", STUDIES)
def test_given_responses_are_a_baseline_like_one_decoded_here(
    name: str, model: Any, decoded: dict[str, StudyResult], exported: Path, tmp_path: Path
) -> None:
    n, options = STUDIES[name]
    again = run_study(make_study(name, options), model, n=n, out=tmp_path / name, responses=exported, **SMALL)
    before = decoded[name]
    assert set(again.tables) == set(before.tables)
    for table, frame in before.tables.items():
        assert_frame_equal(again.tables[table], frame, check_exact=False, atol=1e-4, rtol=1e-4, obj=table)
    assert again.failures == {}
    pinned = again.run.settings["baseline"]
    assert not {"max_new_tokens", "temperature", "responses"} & set(pinned)


def test_another_model_reads_the_same_responses(model: Any, exported: Path, tmp_path: Path) -> None:
    result = run_study(make_study("compare", {}), model, n=4, out=tmp_path / "compare", responses=exported, **SMALL)
    assert list(result.tables) == ["compare"]
    assert "n_steps" not in set(result.table["statistic"])
    assert (result.table["n"] == 4).all()
    assert "toy-base has no accuracy here" in result.readings[-1]


def test_studies_that_decode_are_refused(model: Any, exported: Path, tmp_path: Path) -> None:
    decode = {name for name in STUDY_NAMES if make_study(name, {}).decodes}
    assert decode == {"suppress", "scale", "recycle", "receivers"}
    for name in decode:
        with pytest.raises(InputError, match="expected a study that decodes nothing"):
            run_study(make_study(name, {}), model, out=tmp_path / name, responses=exported, **SMALL)
        assert not (tmp_path / name).exists()


def test_a_study_grows_with_its_responses(model: Any, exported: Path, tmp_path: Path) -> None:
    study = make_study("tokens", {"least": "2"})
    lines = exported.read_text(encoding="utf-8").splitlines()
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines[:3]), encoding="utf-8")
    options = {**SMALL, "out": tmp_path / "tokens"}
    first = run_study(study, model, responses=few, **options)
    assert len(first.run.cells()) == 3
    grown = run_study(study, model, responses=exported, n=8, **options)
    assert len(grown.run.cells()) == 8
