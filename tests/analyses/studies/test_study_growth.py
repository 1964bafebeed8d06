"""A study that grew has the numbers of one made in one go: what hangs on many responses is fixed when it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families as F
import numpy as np
import pandas as pd
import pytest
import torch

from analyses.problems import Problem, bundled_problems
from analyses.store import Cell, Run
from analyses.studies import make_study
from analyses.studies.base import StudyResult, stable_order
from analyses.studies.calibration import Calibration
from analyses.studies.run import run_study
from interp import InputError

LIMIT = 18
CALIBRATE = 4
"""Problems that calibrate the studies."""

pytestmark = pytest.mark.usefixtures("tables_alone")


def go(out: Path, n: int, name: str, options: dict[str, str], **more: Any) -> StudyResult:
    settings = {"max_new_tokens": LIMIT, "batch_size": 8, "calibrate": CALIBRATE, **more}
    return run_study(make_study(name, options), n=n, out=out, **settings)


def baseline(folder: Path) -> Run:
    return Run.open(next((folder / "baselines").glob("*/run.json")).parent)


SMALL = {
    "suppress": {"counts": "2", "draws": "1"},
    "recycle": {"layers": "0", "probabilities": "", "repeats": "", "triggers": "", "gates": "entropy,random"},
    "ablate": {"layers": "0", "places": "thinking", "methods": "mean,resample"},
    "receivers": {"counts": "1", "draws": "1", "how": "mean"},
}


@pytest.mark.parametrize("name", SMALL)
def test_more_problems_change_no_cell_there_is(name: str, tmp_path: Path) -> None:
    first = go(tmp_path / "grown" / "s", 2, name, SMALL[name])
    before = {cell: first.run.read(cell).payload for cell in first.run.cells()}
    grown, whole = (go(tmp_path / place / "s", 5, name, SMALL[name]) for place in ("grown", "whole"))
    assert grown.run.settings["calibration"] == whole.run.settings["calibration"]
    assert grown.run.settings["calibration"]["problems"] == [f"toy-{k:03d}" for k in range(CALIBRATE)]
    assert grown.run.settings["conditions"] == whole.run.settings["conditions"]
    assert set(grown.run.cells()) == set(whole.run.cells())
    for cell in whole.run.cells():
        mine, its = grown.run.read(cell).payload, whole.run.read(cell).payload
        if name == "ablate" and "logprob" in its:
            assert mine["logprob"] == pytest.approx(its["logprob"], abs=1e-4)
        elif name != "ablate":
            assert (mine["tokens"], mine["events"]) == (its["tokens"], its["events"])
        assert mine == before.get(cell, mine), "what was done is not done again"
    assert any("from 4 problems, toy-000 to toy-003" in reading for reading in grown.readings)
    assert "toy-000 to toy-003" in (grown.run.path / "report.html").read_text(encoding="utf-8")


def test_shares_of_a_study_that_grew_are_those_of_one_made_in_one_go(tmp_path: Path) -> None:
    """Study attribute reads responses against other answers' references, which the first run pins."""
    options = {"layers": "1", "most": "1", "measures": "", "classes": "", "draws": "50"}
    go(tmp_path / "grown" / "s", 1, "attribute", options)
    grown, whole = (go(tmp_path / place / "s", 2, "attribute", options) for place in ("grown", "whole"))
    assert "nhsic excess" in set(whole.table["measure"])
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(grown.tables[name], table, rtol=1e-5)


def test_values_are_those_of_their_definitions(tmp_path: Path) -> None:
    """Rates, order and means by literal loops over plain Hugging Face's own states."""

    go(tmp_path / "r", 1, "recycle", SMALL["recycle"])
    go(tmp_path / "s", 1, "suppress", SMALL["suppress"])
    result = go(tmp_path / "a", 1, "ablate", {**SMALL["ablate"], "layers": "1"})
    run = baseline(tmp_path)
    cells = [run.read(Cell(f"toy-{k:03d}")) for k in range(CALIBRATE)]
    tokens = [token for cell in cells for token in cell.payload["tokens"]]
    thinking = ("Okay", "So", "Wait", "Hmm", "Therefore")
    rate = sum(token in thinking for token in tokens) / len(tokens)
    values = Run.open(tmp_path / "r").settings["calibration"]["values"]
    assert values["thinking_rate"] == pytest.approx(rate)
    entropies = np.concatenate([cell.tensors["entropy"].numpy() for cell in cells]).astype(float)
    assert values["entropy_threshold"] == pytest.approx(np.quantile(entropies, 1 - rate))
    order = Run.open(tmp_path / "s").settings["calibration"]["values"]["order"]
    assert order == sorted(thinking, key=lambda word: -tokens.count(word))
    hf, _ = F.pair("toy")
    streams = []
    for cell in cells:
        ids = torch.cat([cell.tensors["prompt_ids"], cell.tensors["token_ids"]])[None, :-1]
        with torch.no_grad():
            hidden = hf(ids, output_hidden_states=True).hidden_states[2]  # of layer 1's output
        streams.append(hidden[0, len(cell.tensors["prompt_ids"]) - 1 :].double())
    calibration = Calibration.read(result.run.path)
    assert calibration is not None
    assert torch.allclose(calibration.tensor("mean.1").double(), torch.cat(streams).mean(0), atol=1e-5)


def test_partners_are_others_and_hang_on_the_ids_alone() -> None:
    some = [f"p{k}" for k in range(12)]
    for problem in some:
        others = [other for other in some if other != problem]
        first = stable_order(others, f"0:{problem}")[0]
        assert first != problem
        assert stable_order(others[::-1], f"0:{problem}")[0] == first
        fewer = [other for other in others if other == first or other < "p5"]
        assert stable_order(fewer, f"0:{problem}")[0] == first, "others that leave change nothing"
    assert len({stable_order([o for o in some if o != p], f"0:{p}")[0] for p in some}) > 3


def test_a_source_that_grew_is_told_and_the_stored_values_hold(tmp_path: Path) -> None:
    problems = bundled_problems(4)

    def run(n: int, **more: Any) -> StudyResult:
        study = make_study("suppress", SMALL["suppress"])
        return run_study(study, problems=problems[:n], out=tmp_path / "s", max_new_tokens=LIMIT, **more)

    first = run(2).run.settings["calibration"]
    assert (first["asked"], len(first["problems"])) == (32, 2)
    grown = run(4)
    assert grown.run.settings["calibration"] == first
    assert "toy-000 to toy-001" in grown.readings[-1]
    assert "source has changed since then; the stored values hold" in grown.readings[-1]
    assert "has changed" not in run(2).readings[-1]
    with pytest.raises(InputError, match=r"expected calibrate=32, which .* was begun with, received calibrate=4"):
        run(4, calibrate=4)


def test_the_file_of_means_is_looked_at_and_made_again(tmp_path: Path) -> None:
    options = {"layers": "0,1", "places": "thinking", "methods": "mean"}
    before = go(tmp_path / "a", 2, "ablate", options).table
    file = tmp_path / "a" / "calibration.safetensors"
    content = file.read_bytes()
    file.unlink()
    assert go(tmp_path / "a", 2, "ablate", options).table.equals(before)
    assert file.read_bytes() == content
    file.write_bytes(content[:-4] + bytes(4))
    with pytest.raises(InputError, match=r"read calibration: expected the file that .*run.json speaks of"):
        go(tmp_path / "a", 3, "ablate", options)


@pytest.mark.usefixtures("quick_processes")
def test_workers_read_what_was_found_once(tmp_path: Path) -> None:
    options = {**SMALL["ablate"], "layers": "0"}
    one = go(tmp_path / "one" / "a", 4, "ablate", options, batch_size=2)
    two = go(tmp_path / "two" / "a", 4, "ablate", options, batch_size=2, workers=2)
    assert one.run.settings["calibration"] == two.run.settings["calibration"]
    assert one.tables["ablate_cells"].equals(two.tables["ablate_cells"])


def test_studies_that_need_none_decode_no_more_problems(tmp_path: Path) -> None:
    for name, options in (
        ("trajectories", {}),
        ("recycle", {**SMALL["recycle"], "gates": "mi"}),
        ("scale", {"budgets": "8", "tokens": "Wait"}),
    ):
        result = go(tmp_path / name, 2, name, options, calibrate=None)
        assert "calibration" not in result.run.settings
    assert len(baseline(tmp_path).cells()) == 2


def test_only_the_first_sample_calibrates(tmp_path: Path) -> None:
    result = go(tmp_path / "s", 2, "suppress", SMALL["suppress"], samples=2, temperature=1.0)
    run = baseline(tmp_path)
    assert {(cell.problem, cell.sample) for cell in run.cells()} == {
        *((f"toy-{k:03d}", 0) for k in range(CALIBRATE)), ("toy-000", 1), ("toy-001", 1),
    }  # fmt: skip
    more = go(tmp_path / "s", 2, "suppress", SMALL["suppress"], samples=3, temperature=1.0)
    assert more.run.settings["calibration"] == result.run.settings["calibration"]
    fewer = go(tmp_path / "s", 2, "suppress", SMALL["suppress"], samples=1, temperature=1.0)
    assert set(fewer.tables["suppress_draws"]["n"]) == {2}, "samples that were not asked for do not count"


def test_a_neutral_word_and_controls_of_a_model_of_another_vocabulary(tmp_path: Path) -> None:
    """The neutral word of study scale, drawn for a model that is no toy, does not hang on n either."""
    model, words = F.lettered_bridge()
    problems = [Problem(f"p{k}", f"{words[k]} {words[k + 1]}", words[k], words[k]) for k in range(8)]
    common: dict[str, Any] = {"words": ",".join(words[:2]), "max_new_tokens": 12, "calibrate": 5}
    study = make_study("scale", {"budgets": "8", "final": ""})
    arms = []
    for n in (1, 8):
        result = run_study(study, model, problems, tmp_path / "s", n=n, **common)
        arms.append(json.dumps(result.run.settings["conditions"]))
    assert arms[0] == arms[1]
    (neutral,) = result.run.settings["calibration"]["values"]["neutral"]
    assert neutral not in {word.casefold() for word in words[:2]}
    arm = result.run.cells(f"neutral {neutral} 8")
    assert len(arm) == 8
