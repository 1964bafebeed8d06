"""Runs in groups, in which a finished response's place is taken by the next: their numbers, stopping, older runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pandas.testing import assert_frame_equal
from references import hf_residuals

from analyses.problems import Problem, bundled_problems
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.work import batches
from analyses.work.batches import GROUPED, Batch, Group, guarded, plan_batches, rows_of
from interp import InputError, bundled_model_path
from probes import nhsic_dense

OPTIONS = {"max_new_tokens": 52, "batch_size": 2, "report": False, "excess": 0}


@pytest.fixture(scope="module", autouse=True)
def _grouped_when_few() -> Iterator[None]:
    """Ten cells are cut into groups as eighty would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "SHARED", 1)
        yield


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    """Whose responses are short, of several lengths, and two that are cut."""
    some = bundled_problems(27)
    return [some[n] for n in (5, 7, 0, 11, 13, 12, 16, 19, 20, 26)]


@pytest.fixture(scope="module")
def run(problems: list[Problem], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trace("toy-reasoner", problems, tmp_path_factory.mktemp("groups") / "run", **OPTIONS)


def test_scores_are_those_of_the_dense_formula_whoever_was_beside(run: Run, problems: list[Problem]) -> None:
    """Nothing of ours but the table: plain Hugging Face hooks, the literal formula."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bundled_model_path("toy-reasoner")
    hf, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    lengths = set()
    for problem in problems:
        cell = run.read(Cell(problem.id))
        prompt, response = tokenizer(problem.question)["input_ids"], cell.tensors["token_ids"].tolist()
        ids = torch.tensor([prompt])
        generated = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=52, do_sample=False)
        assert generated[0, len(prompt) :].tolist() == response
        steps = hf_residuals(hf, prompt + response)["resid_post"][:, len(prompt) - 1 : -1]
        answer = hf_residuals(hf, tokenizer(problem.solution)["input_ids"])["resid_post"][:, -1]
        torch.testing.assert_close(cell.tensors["mi"], nhsic_dense(steps, answer).double(), atol=1e-4, rtol=1e-3)
        lengths.add(len(response))
    assert len(lengths) > 3, "places became free at different steps"


def test_a_group_that_was_stopped_is_decoded_again_as_it_was(
    run: Run, problems: list[Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = [run.payload(Cell(problem.id)) for problem in problems]
    assert [payload["rows"] for payload in payloads] == [2] * 10
    assert [len(payload["batch"]) for payload in payloads] == [8] * 8 + [2] * 2
    written: list[Cell] = []
    write = Run.write

    def stop_later(self: Run, cell: Cell, *held: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        write(self, cell, *held)
        written.append(cell)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write", stop_later)
        with pytest.raises(KeyboardInterrupt):
            trace("toy-reasoner", problems, tmp_path, **OPTIONS)
    assert len(Run.open(tmp_path).cells()) == 3
    again = trace("toy-reasoner", problems, tmp_path, **OPTIONS)
    for name in ("mi.parquet", "steps.parquet", "peaks.parquet"):
        assert_frame_equal(run.table(name), again.table(name), check_exact=True)


def _planned(path: Path, told: Callable[[list[Cell]], dict[str, Any]], grouped: int) -> list[tuple[int, int]]:
    """Of each batch its size and how many at a time, where the first batch of 2 is half written."""
    cells = [Cell(f"p{n}") for n in range(9)]
    run = Run.start(path, kind="trace", settings={}, provenance={})
    run.write(cells[0], {}, told(cells[:2]))
    return [(len(batch), rows_of(batch)) for batch in plan_batches(run, cells, 2, grouped=grouped)]


def test_runs_of_batches_go_on_in_batches(tmp_path: Path) -> None:
    def old(cells: list[Cell]) -> dict[str, Any]:
        return {"batch": [[cell.problem, cell.sample] for cell in cells]}

    assert _planned(tmp_path / "old", old, GROUPED) == [(2, 2), (2, 2), (2, 2), (2, 2), (1, 2)]
    assert _planned(tmp_path / "new", lambda cells: old(cells) | {"rows": 1}, 3) == [(2, 1), (6, 2), (1, 2)]


def test_small_runs_have_work_for_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SHARED", 8)
    run = Run.start(tmp_path, kind="trace", settings={}, provenance={})

    def sizes(n: int) -> list[int]:
        return [len(batch) for batch in plan_batches(run, [Cell(f"p{number}") for number in range(n)], 2, grouped=4)]

    assert sizes(17) == [2] * 8 + [1]
    assert sizes(32) == [4] * 8
    assert sizes(70) == [8] * 8 + [6]
    run.write(Cell("p0"), {}, {"batch": [["p0", 0]], "rows": 2})
    assert sizes(32) == [4] * 7 + [3], "what is finished does not change how the rest is cut"


def test_of_a_group_that_fails_only_what_cannot_be_done_is_lost() -> None:
    cells, done = [Cell(f"p{n}") for n in range(6)], []

    def do(batch: Batch) -> None:
        if cells[3] in batch:
            raise ValueError("no")
        done.append((len(batch), rows_of(batch)))

    assert list(guarded(do, Group(cells, 2))) == [cells[3]]
    assert done == [(2, 2), (2, 2), (1, 1)]
    with pytest.raises(InputError, match="full"):
        guarded(lambda batch: _full(), Group(cells, 2))


def _full() -> None:
    raise InputError("write cell", expected="room", received="a full disk", remedy="Make some.")
