"""``python -m analyses.bench``: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from bench_names import CONDITIONS, ENGINES, LARGE

from analyses.bench.__main__ import _command, main
from analyses.bench.attribution import JOBS
from analyses.bench.growth import GROWING
from analyses.bench.profile import KINDS
from analyses.bench.sheet import number
from analyses.bench.sizes import ALL_PARTS
from analyses.bench.variants import FREE, HIDDEN, NNSIGHT, READERS, SDPA, SQUARE, VARIANTS


def test_command_writes_what_it_prints(tmp_path, capsys, here):
    out = tmp_path / "new" / "bench"
    with pytest.raises(SystemExit) as stopped:
        main(["--smoke", "--out", str(out), "--write", str(tmp_path / "pages" / "BENCH.md")])
    assert stopped.value.code == 0
    result = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    markdown = (out / "bench.md").read_text(encoding="utf-8")
    page = (tmp_path / "pages" / "BENCH.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out

    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["versions"]["torch"] == torch.__version__
    assert f"torch {torch.__version__}" in markdown
    assert result["model"]["name"] == "toy-reasoner"
    assert set(result["took"]) == set(ALL_PARTS) - {"reruns"}  # interventions have them
    assert [row["d_model"] for row in result["nhsic"]] == [64]
    assert set(result["nhsic"][0]["ratio"]) == {"median", "min", "max", "n"}
    [profiled] = result["profile"]
    assert sum(profiled[kind] for kind in (*KINDS, "moved", "between")) == pytest.approx(1)
    assert all(profiled[kind] > 0 for kind in (*KINDS, "moved"))
    # Features, their sums and the answer's product: at least that of one feature with one row of the answer.
    assert profiled["products_at_best_us"] > 1e6 * 2 * 64 / (profiled["gflops"] * 1e9)
    assert profiled["us_per_step"] > profiled["products_at_best_us"]
    assert f"| 64 | {profiled['steps']} | {number(profiled['us_per_step'])} |" in markdown
    _check_beside(result["decoding"], result["reading"], markdown)
    _check_engines(result["engines"], markdown)
    assert [(row["grows"], row["count"]) for row in result["scaling"]] == [
        *((grows, count) for grows, count in (("layers", 1), ("layers", 2), ("d_model", 32)) for _ in range(4)),
        ("problems", 1),
    ]
    assert [row["command"] for row in result["commands"]] == ["peaklens --help"]
    assert [(row["spread"], row["batch"]) for row in result["rows"]] == [("evenly", 2), ("few long", 2)]
    for row in result["rows"]:
        assert row["least_steps"] == math.ceil(row["tokens"] / 2) <= row["steps"] < row["static_steps"]
        assert row["ratio"]["median"] == row["static_seconds"]["median"] / row["seconds"]["median"]
        assert row["same"] == row["problems"] == 8
        assert markdown.count(f"| {row['spread']} | 2 | {row['tokens']} |") == 1
    _check_interventions(result["interventions"], markdown)
    _check_attribution(result["attribution"], markdown)
    _check_growth(result["growth"], markdown)
    assert "largest_gap" not in markdown
    assert str(tmp_path) not in json.dumps(result) + markdown
    assert "peaklens, ResidualStream" in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    # The page is the same, under the command that made it.
    assert page.partition("### ")[2] == markdown.partition("### ")[2]
    assert page.startswith("# Benchmarks\n\nMade by `python -m analyses.bench --smoke --out")
    assert "nnsight is left out: --nnsight names an interpreter" in markdown


def _check_beside(decoding, reading, markdown):
    present = [name for name in VARIANTS if name != NNSIGHT]
    assert [(row["variant"], row["batch"]) for row in decoding] == [
        (name, batch) for batch in (1, 2) for name in present
    ]
    for row in decoding:
        (base,) = (one for one in decoding if one["batch"] == row["batch"] and one["variant"] == SDPA)
        assert row["times"]["median"] == pytest.approx(row["step_ms"]["median"] / base["step_ms"]["median"])
        assert row["cpu_times"]["median"] == pytest.approx(row["step_cpu_ms"]["median"] / base["step_cpu_ms"]["median"])
        assert row["exponent"]["n"] == 1
        assert row["grown"] >= 0
        assert row["same_share"] == (None if row["variant"] in FREE else 1)
    readers = [name for name in present if name in READERS]
    assert [(row["variant"], row["tokens"]) for row in reading] == [
        *((name, 24) for name in readers),
        *((name, 48) for name in readers if name not in SQUARE),
    ]
    for row in reading:
        (base,) = (one for one in reading if one["tokens"] == row["tokens"] and one["variant"] == HIDDEN)
        assert row["times"]["median"] == pytest.approx(row["seconds"]["median"] / base["seconds"]["median"])
        assert (row["exponent"]["median"] is None) == (row["variant"] in SQUARE)
    lines = markdown.partition("### All beside each other")[2].partition("### ")[0].strip().splitlines()[4:]
    told = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}
    assert list(told) == present
    for name, cells in told.items():
        # Decoding at two batches, MB; reading of two lengths, MB of the longer; exponents.
        reads, reads_long = name in READERS, name in READERS and name not in SQUARE
        assert [cell != "-" for cell in cells] == [True] * 3 + [reads, reads_long, reads_long, True, reads_long], name


def _check_engines(rows, markdown):
    markdown = markdown.partition("### Engines in one process")[2].partition("### ")[0]
    assert [(row["engine"], row["recording"], row["batch"]) for row in rows] == [
        (*name, batch) for batch in (1, 2) for name in ENGINES
    ]
    for row in rows:
        assert row["tokens"] == 4 * row["batch"]
        assert row["decode_seconds"]["n"] == 1
        assert min(row["decode_seconds"]["min"], row["first_token_seconds"]["min"]) > 0
        # In float32 only a near-tie may part the engines.
        assert row["same_share"] == 1 or row["largest_gap"] < 1e-3
        line = f"| {row['engine']}{'' if row['recording'] == '-' else ', ' + row['recording']} | {row['batch']} |"
        assert markdown.count(line) == 1


def _check_interventions(tables, markdown):
    reruns, overheads, batches = tables["reruns"], tables["overheads"], tables["batches"]
    layers = [0, 1, 2]
    assert [(row["batch"], row["rows"], row["inject"]) for row in reruns] == [
        *((1, 1, layer) for layer in layers),
        *((8, 8, layer) for layer in layers),
        (8, 2, 1),
        (2, 2, 1),
    ]
    for row in reruns:
        times = [row[name]["median"] for name in row if name.endswith("_ms") and name != "extra_ms"]
        assert len(times) == 7
        assert min(times) > 0
        assert row["target_share"]["median"] > 0.15
        assert row["blocks_ms"]["median"] + row["unembedding_ms"]["median"] < row["same_rows_ms"]["median"]
        assert markdown.count(f"| {row['rows']} of {row['batch']} | {row['inject']} of 3 |") == 1
    assert [(row["batch"], row["intervention"]) for row in overheads] == [
        (batch, name) for batch in (1, 8) for name in CONDITIONS
    ]
    for row in overheads:
        assert (row["overhead"] is None) == (row["intervention"] == "plain")
        assert row["overhead"] is None or row["overhead"]["median"] > 0
        assert 0 <= row["acted_tokens"] <= row["acted_steps"] <= 1
        assert markdown.count(f"| {row['intervention']} | {row['batch']} |") == 1
    assert [(row["intervention"], row["batch"]) for row in batches] == [(name, 16) for name in LARGE]
    assert min(row["ratio"]["median"] for row in batches) > 0


def _check_attribution(rows, markdown):
    assert [(row["job"], row["tokens"], row["steps"]) for row in rows] == [
        (job, 24, steps) for job in JOBS for steps in (1, 16, 24)
    ]
    for row in rows:
        assert row["components"] == 1 + 3 * 5
        assert row["seconds"]["median"] > 0
        assert row["passes"]["median"] == pytest.approx(row["seconds"]["median"] / row["pass_seconds"]["median"])
        assert markdown.count(f"| {row['job']} | 24 | {row['steps']} |") == 1


def _check_growth(rows, markdown):
    assert [(row["job"], row["count"]) for row in rows] == [(job, count) for job in GROWING for count in (1, 2)]
    found = {job: [row["found"] for row in rows if row["job"] == job] for job in GROWING}
    assert found["MI shares"] == [16, 32]
    assert found["total effects of one step"] == [1, 2]
    assert found["attribution patching"] == [15, 30]
    assert found["exact patching"] == [1, 2]
    for job, (few, many) in found.items():
        one, two = (row["seconds"]["median"] for row in rows if row["job"] == job)
        assert 0 < few < many
        for row in rows:
            if row["job"] == job:
                assert row["exponent"] == pytest.approx(math.log(two / one) / math.log(2))
                assert markdown.count(f"| {job} | {row['count']} {row['grows']} | {row['found']} {row['what']} |") == 1


def test_only_what_is_asked_for(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--smoke", "--only", "nhsic", "--out", str(tmp_path)])
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    markdown = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert {"nhsic", "decoding", "interventions"} & set(result) == {"nhsic"}
    assert [line for line in markdown.splitlines() if line.startswith("### ")] == [
        "### In a line each: median (least to greatest) over n turns",
        "### nHSIC: CPU milliseconds a step on one thread, median (min to max); error against the float64 formula; "
        "99 wrong answers, and the median as bandwidth, in passes of the same without, the latter also in passes of a "
        "number as wide as the steps' medians; a step of 1 and of 24 with the answer made ready; two threads by the "
        "wall clock",
    ]
    assert "gap" not in markdown + capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--repeats", "0", "--smoke"], "expected repeats of at least 1"),
        (
            ["--smoke", "--only", "speed", "--only", "nhsic"],
            "attribution, received speed",
        ),
        (["--smoke", "--model", "toy-raisoner"], "Did you mean toy-reasoner"),
        (["--smoke", "--out", "{file}"], "Choose another --out"),
        (["--smoke", "--write", "{file}/page.md"], "Choose another --write"),
        (
            ["--smoke", "--nnsight", sys.executable],
            "No module named 'nnsight'. Make one: python3 -m venv nnsight; nnsight/bin/pip install",
        ),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, arguments, text):
    file = tmp_path / "file"
    file.write_text("in the way", encoding="utf-8")
    named = [argument.format(file=file) for argument in ["--out", str(tmp_path / "out"), *arguments]]
    with pytest.raises(SystemExit) as stopped:
        main(named)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert text in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_importing_is_cheap():
    code = (
        "import sys, analyses.bench, analyses.bench.__main__ as _; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_page_names_no_place_of_the_machine_that_made_it():
    given = ["--nnsight", "/venv/bin/python", "--out=/some/where/bench", "--write", "docs/BENCH.md", "--only", "rows"]
    assert _command("/venv/bin/python", given) == (
        "python -m analyses.bench --nnsight PYTHON_WITH_NNSIGHT --out=bench --write docs/BENCH.md --only rows"
    )
