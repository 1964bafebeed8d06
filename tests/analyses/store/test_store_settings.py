"""What run.json pins: the same settings go on, some may grow, others are refused by name, and so are other folders."""

import json
from pathlib import Path

import pytest
import torch
from run_folders import PROVENANCE, SETTINGS, refusal, start

from analyses.store import Run


def test_start_and_open_give_the_same_run(tmp_path):
    first = start(tmp_path / "new/deep/run")
    for run in (first, start(first.path), Run.open(str(first.path))):
        assert (run.kind, run.settings, run.provenance) == ("watch", SETTINGS, PROVENANCE)
        assert run.created == first.created
    pinned = json.loads((first.path / "run.json").read_text())
    assert list(pinned) == ["format", "kind", "created", "settings", "provenance"]
    assert start(tmp_path / "tuple", settings={"layers": (1, 2)}).settings == {"layers": [1, 2]}
    start(tmp_path / "tuple", settings={"layers": (1, 2)})


def test_every_difference_is_listed(run):
    before = (run.path / "run.json").read_text()
    settings = SETTINGS | {"temperature": 1.0, "seed": 3, "prompt": "x"}
    del settings["model"]
    message = refusal(start, run.path, kind="study", settings=settings, provenance={"versions": {"torch": "2.14"}})
    assert message == (
        f"start run: expected the settings that {run.path}/run.json pins, received "
        'kind is "watch" there and "study" now; '
        'settings.model is "toy" there and absent now; '
        "settings.temperature is 0.6 there and 1.0 now; "
        "settings.seed is absent there and 3 now; "
        'settings.prompt is absent there and "x" now; '
        'provenance.versions.torch is "2.13" there and "2.14" now; '
        'provenance.revision is "abc" there and absent now. '
        "This is the output folder of other settings: choose another folder, or give the settings it has."
    )
    assert (run.path / "run.json").read_text() == before


def test_differences_of_long_values_are_shown_where_they_part(tmp_path):
    text = "You are a careful solver. " * 20
    start(tmp_path, settings={"prompt": text + "Be brief."})
    message = refusal(start, tmp_path, settings={"prompt": text + "Be exact."})
    assert 'solver. Be brief."... there and ...' in message
    assert 'solver. Be exact."... now' in message
    assert len(message) < 500


def test_equal_numbers_are_equal_and_bools_are_not(tmp_path):
    start(tmp_path, settings={"temperature": 1, "greedy": True})
    start(tmp_path, settings={"temperature": 1.0, "greedy": True})
    assert "settings.greedy is true there and 1 now" in refusal(
        start, tmp_path, settings={"temperature": 1, "greedy": 1}
    )


def test_some_settings_may_grow(run):
    grown = SETTINGS | {"layers": [4, 8, 2, 8], "problems": {"p0": "cc", "p1": "bb"}, "conditions": ["ablate"]}
    may_grow = ["layers", "problems", "conditions", "unused"]
    again = start(run.path, settings=grown, may_grow=may_grow)
    assert again.settings["layers"] == [0, 4, 8, 2]
    assert list(again.settings["problems"].items()) == [("p2", "aa"), ("p1", "bb"), ("p0", "cc")]
    assert again.settings["conditions"] == ["ablate"]
    assert Run.open(run.path).settings == again.settings
    assert Run.open(run.path).created == run.created
    less = start(run.path, settings={"model": "toy", "temperature": 0.6, "layers": []}, may_grow=may_grow)
    assert less.settings == again.settings
    assert "settings.layers is" in refusal(start, run.path, settings=grown, may_grow=["problems"])


def test_a_changed_problem_is_refused_by_name(run):
    changed = SETTINGS | {"problems": {"p1": "XX", "p3": "dd"}}
    message = refusal(start, run.path, settings=changed, may_grow=["problems"])
    assert 'received settings.problems.p1 is "bb" there and "XX" now. This is' in message
    other_kind = SETTINGS | {"problems": ["p1"]}
    assert "settings.problems is" in refusal(start, run.path, settings=other_kind, may_grow=["problems"])


def test_settings_that_json_cannot_hold_are_refused(tmp_path):
    for value in (float("nan"), Path("x"), torch.ones(1), {1, 2}):
        message = refusal(start, tmp_path / "run", settings={"a": value})
        assert message.startswith("start run: expected settings of JSON values")
    assert "expected provenance of JSON values" in refusal(start, tmp_path / "run", provenance={"a": float("inf")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "received Expecting value"),
        ('{"format": 1, "kind"', "received Expecting"),
        ("[]", "received a JSON list"),
        ('{"format": 1, "kind": "watch", "settings": []}', "received no usable created, settings, provenance"),
        ('{"format": 2}', "open run: expected run format 1, received format 2 in"),
        ("\udcff", "codec can't decode"),
    ],
)
def test_a_damaged_run_json_is_told(run, content, text):
    (run.path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    for call in (Run.open, start):
        assert text in refusal(call, run.path)
    assert (run.path / "run.json").read_bytes() == content.encode(errors="surrogateescape")


def test_folders_that_are_no_runs_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert f"received {tmp_path}, which holds thesis.tex. Choose another output folder." in refusal(start, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    assert f"received {tmp_path}, which has no run.json. Check the path" in refusal(Run.open, tmp_path)
    assert "which has no run.json" in refusal(Run.open, tmp_path / "thesis.tex")
    assert "[Errno 17] File exists" in refusal(start, tmp_path / "thesis.tex")
    assert "[Errno 17] File exists" in refusal(start, tmp_path / "thesis.tex/run")


def test_a_start_killed_half_way_can_be_repeated(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-00000000-1-aaaa").write_text('{"form')
    assert start(tmp_path).cells() == []


def test_disks_that_cannot_be_written_or_are_small(tmp_path):
    message = refusal(start, "/proc/peaklens")  # where nobody can make a folder, root included
    assert message.startswith("start run: expected room and permission to write /proc/peaklens, received [Errno 2]")
    assert message.endswith("Choose a folder on a disk that can be written and has room.")
    assert "expected 1e+09 GB of free space, received" in refusal(start, tmp_path, need_bytes=10**18)
    assert not (tmp_path / "run.json").exists()
    start(tmp_path, need_bytes=1000)
