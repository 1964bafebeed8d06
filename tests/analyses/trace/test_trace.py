"""The whole path: problems to tables, stopped at any moment, extended, refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import Command, ToyForks
from references import hf_residuals

from analyses.problems import Problem, bundled_problems
from analyses.store import Cell, Run
from analyses.trace import trace
from interp import InputError, bundled_model_path, load_model
from probes import nhsic_dense

SMALL = {"max_new_tokens": 24, "batch_size": 4, "report": False}


@pytest.fixture(scope="module")
def model() -> object:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def run(model: object, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trace(model, n=6, out=tmp_path_factory.mktemp("trace") / "run", **SMALL)


def assert_same_tables(a: Path, b: Path, **tolerance: float) -> None:
    for name in ("mi.parquet", "peaks.parquet", "tokens.csv"):
        assert_frame_equal(Run.open(a).table(name), Run.open(b).table(name), check_exact=not tolerance, **tolerance)


def test_mi_equals_the_dense_formula_on_hugging_face_residuals(run: Run) -> None:
    """Nothing of ours but the tables: plain Hugging Face hooks, the literal formula."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bundled_model_path("toy-reasoner")
    hf = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    problem = bundled_problems(3)[2]
    mi = run.mi
    rows = mi[mi["problem"] == problem.id]
    prompt = tokenizer(problem.question)["input_ids"]
    response = rows[rows["layer"] == 0].sort_values("step")["token_id"].tolist()
    steps = hf_residuals(hf, prompt + response)["resid_post"][:, len(prompt) - 1 : -1]
    answer = hf_residuals(hf, tokenizer(problem.solution)["input_ids"])["resid_post"][:, -1]
    expected = nhsic_dense(steps, answer)
    ours = torch.tensor(rows.sort_values(["layer", "step"])["mi"].to_numpy()).reshape(expected.shape)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


def test_tables_are_tidy(run: Run) -> None:
    mi, peaks, tokens = run.mi, run.peaks, run.tokens
    tokens_of_a_step = ["input_token_id", "input_token", "token_id", "token"]
    columns = ["problem", "sample", "layer", "site", "step", *tokens_of_a_step, "nhsic", "mi", "is_peak"]
    for end in ("", "_predicts"):
        columns += [f"excess{end}", f"excess_standardised{end}", f"is_excess_peak{end}"]
    assert list(mi.columns) == columns
    assert not mi.isna().any().any()
    assert not mi.duplicated(["problem", "sample", "layer", "site", "step"]).any()
    counted = mi.groupby(["problem", "sample", "layer"], observed=True)["is_peak"].sum().reset_index()
    joined = peaks.merge(counted, on=["problem", "sample", "layer"])
    assert len(joined) == len(peaks) == 6 * 3
    assert (joined["n_peaks"] == joined["is_peak"]).all()
    quarter = mi.groupby(["problem", "layer"], observed=True)["mi"].quantile([0.25, 0.75]).unstack()
    fence = (quarter[0.75] + 1.5 * (quarter[0.75] - quarter[0.25])).rename("fence").reset_index()
    fenced = mi.merge(fence, on=["problem", "layer"])
    assert (fenced["is_peak"] == (fenced["mi"] > fenced["fence"])).all()
    for position, column in (("input", "input_token"), ("predicted", "token")):
        at_peaks = mi[mi["is_peak"]].groupby(["layer", column], observed=True).size()
        rows = tokens[tokens["position"] == position]
        assert {(row.layer, row.word): row.count for row in rows.itertuples()} == at_peaks.to_dict()


def test_same_command_resumes_without_recomputing(run: Run, model: object, tmp_path: Path) -> None:
    out = Path(shutil.copytree(run.path, tmp_path / "again"))
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    assert len(before) == 6
    trace(model, n=6, out=out, **SMALL)
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert_same_tables(run.path, out)


def test_more_problems_extend(run: Run, model: object, tmp_path: Path) -> None:
    out = tmp_path / "more"
    trace(model, n=4, out=out, **SMALL)
    first = Run.open(out).read(Cell(bundled_problems(1)[0].id)).tensors["mi"]
    trace(model, n=6, out=out, **SMALL)
    assert torch.equal(first, Run.open(out).read(Cell(bundled_problems(1)[0].id)).tensors["mi"])
    assert_same_tables(run.path, out, rtol=1e-3, atol=1e-5)  # other rows beside it: other last digits


def test_more_layers_extend(run: Run, model: object, tmp_path: Path) -> None:
    out = tmp_path / "layers"
    trace(model, n=6, out=out, layers=[1], **SMALL)
    assert Run.open(out).mi["layer"].unique().tolist() == [1]
    trace(model, n=6, out=out, **SMALL)
    ours, whole = Run.open(out).mi, run.mi
    assert (
        (ours[["problem", "layer", "step", "token_id"]] == whole[["problem", "layer", "step", "token_id"]]).all().all()
    )
    assert (ours["mi"] - whole["mi"]).abs().max() < 1e-4


def test_other_settings_are_refused(run: Run, model: object) -> None:
    with pytest.raises(InputError, match=r"settings\.sigma is 50\.0 there and 60\.0 now"):
        trace(model, n=6, out=run.path, sigma=60.0, **SMALL)
    with pytest.raises(InputError, match=r"provenance\.model\.weight_hash|settings\.model"):
        trace("toy-base", n=6, out=run.path, **SMALL)


def test_samples_differ_and_do_not_depend_on_what_else_is_run(model: object, tmp_path: Path) -> None:
    options = {"temperature": 1.0, "samples": 2, "max_new_tokens": 30, "report": False}
    both = trace(model, n=3, out=tmp_path / "both", batch_size=6, **options)
    one = trace(model, bundled_problems(3)[2:], out=tmp_path / "one", batch_size=1, **options)
    name = bundled_problems(3)[2].id
    responses = [both.read(Cell(name, sample)).tensors["token_ids"].tolist() for sample in (0, 1)]
    assert responses == [one.read(Cell(name, sample)).tensors["token_ids"].tolist() for sample in (0, 1)]
    assert responses[0] != responses[1]


def test_a_peaks_site_other_than_resid_post(model: object, tmp_path: Path) -> None:
    final = trace(model, n=2, out=tmp_path / "final", site="ln_final", **SMALL).mi
    assert final["layer"].unique().tolist() == [0]
    assert final["site"].astype(str).unique().tolist() == ["ln_final"]
    mid = trace(model, n=2, out=tmp_path / "mid", site="resid_mid", layers=[-1], **SMALL).mi
    assert mid["layer"].unique().tolist() == [2]


KILLED = """
import sys
from analyses.trace import trace
trace("toy-reasoner", n=10, out=sys.argv[1], max_new_tokens=30, batch_size=2, excess=4, report=False)
"""


def test_kill_9_at_random_moments_gives_the_same_tables(tmp_path: Path, toy_forks: ToyForks) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert toy_forks.wait(toy_forks.spawn(KILLED, whole))[0] == 0
    dice = random.Random(8)
    kept: dict[Path, int] = {}
    stops = 0
    for _ in range(5):
        process = toy_forks.spawn(KILLED, killed)
        had = len(list(killed.rglob("*.safetensors")))
        enough = had + dice.choice([0, 0, 1, 2])
        # Wait for some new cell, then for a moment: a random point of the decoding or of the writing.
        while not toy_forks.has_ended(process) and len(list(killed.rglob("*.safetensors"))) <= enough:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.1))
        if toy_forks.has_ended(process):
            break
        assert toy_forks.kill(process)[0] == -signal.SIGKILL
        stops += 1
        for file, stamp in kept.items():
            assert file.stat().st_mtime_ns == stamp, "a finished cell was written again"
        kept = {
            file: file.stat().st_mtime_ns for file in killed.rglob("*.safetensors") if not file.name.startswith(".")
        }
    assert stops >= 2
    assert toy_forks.wait(toy_forks.spawn(KILLED, killed))[0] == 0
    assert_same_tables(whole, killed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problems": []}, "trace: expected at least one problem, received none"),
        ({"problems": [Problem("a", "6 ducks * 3 ?", "So 8", "8")]}, "trace: expected text made of words .*'ducks'"),
        ({"problems": [Problem("a", "6 A * 3 ? ->", "So eight", "8")]}, "trace: expected text made of words .*'eight'"),
        ({"layers": [0, 3]}, r"trace: expected layers from 0 to 2 .*received \[0, 3\]"),
        ({"site": "resid_end"}, "expected sites among resid_pre"),
        ({"prompt": "chat"}, "trace: expected a model with a chat template, received chat messages"),
        ({"prompt": "xml"}, "trace: expected prompt auto or raw or chat, received 'xml'"),
        ({"samples": 2}, "expected one greedy response a problem"),
        ({"sigma": 0.0}, "sigma"),
        ({"drop_top": 127}, "drop_top"),
        ({"batch_size": 0}, "expected batch_size at least 1"),
        ({"max_new_tokens": 10**6}, "trace: expected at most .* positions"),
        ({"out": "/proc/peaklens/run"}, "start run: .*/proc/peaklens"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    model: object, tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=message) as caught:
        trace(model, **{"problems": bundled_problems(2), "out": out, "max_new_tokens": 5, **arguments})
    assert type(caught.value).__name__ == "InputError"
    assert not list(out.rglob("*.safetensors"))


def test_problems_are_needed_unless_the_model_is_a_toy(tmp_path: Path) -> None:
    import families

    with pytest.raises(InputError, match="expected a problem file for a model that is not a bundled toy"):
        trace(families.bridge("llama"), out=tmp_path / "x")


ODD = """
import sys
import torch
from analyses.trace import trace
from interp import InputError
from probes import nhsic, top_k_peaks, tukey_peaks

x, mi = torch.randn(4, 8), torch.rand(9)
for call in (
    lambda: trace("toy-reasoner", ["6 A * 3 ? ->"], out=sys.argv[1]),
    lambda: trace(None, out=sys.argv[1]),
    lambda: nhsic(x, x[0], max_bytes=1e6),
    lambda: tukey_peaks(mi, tau="1.5"),
    lambda: top_k_peaks(mi, k=2.0),
):
    try:
        call()
    except InputError as error:
        print(error)
"""


def test_what_is_of_another_kind_is_refused_where_no_types_are_checked(tmp_path: Path, toy_forks: ToyForks) -> None:
    """In a process of its own: here beartype would be first."""
    code, said = toy_forks.wait(toy_forks.spawn(ODD, tmp_path / "never"))
    assert code == 0
    assert [line.split(", received")[0] for line in said.splitlines()] == [
        "trace: expected a problem file, or a list of Problem",
        "use a model: expected a model that load_model returns (a TransformerBridge)",
        "nhsic: expected max_bytes >= 1, a whole number",
        "tukey_peaks: expected tau >= 0 and finite",
        "top_k_peaks: expected k >= 1, a whole number",
    ]
    assert not (tmp_path / "never").exists()


# The command


def test_the_command_prints_a_readable_summary(tmp_path: Path, peaklens: Command) -> None:
    code, out, said = peaklens("trace", "--n", "3", "--max-new-tokens", "24", "--out", str(tmp_path / "r"))
    assert code == 0, said
    for part in (
        "toy-reasoner: 3 responses",
        "Peaks (Tukey)",
        "Tokens read at peaks of layer 2",
        "«",
        "mi.parquet",
        "not bits",
    ):
        assert part in out
    assert "Traceback" not in said
    _, out, _ = peaklens("trace", "--n", "3", "--max-new-tokens", "24", "--out", str(tmp_path / "r"), "--json")
    facts = json.loads(out)
    table = pd.read_parquet(tmp_path / "r" / "peaks.parquet")
    assert facts["layers"][2]["n_peaks"] == pytest.approx(table[table["layer"] == 2]["n_peaks"].mean())


def test_the_command_reads_problem_files_with_named_columns(tmp_path: Path, peaklens: Command) -> None:
    frame = pd.DataFrame({"q": [p.question for p in bundled_problems(2)], "final": [1, 2]})
    frame.to_csv(tmp_path / "p.csv", index=False)
    code, out, said = peaklens(
        "trace", "--problems", str(tmp_path / "p.csv"), "--question", "q", "--answer", "final", "--reference", "answer",
        "--layers=-1", "--max-new-tokens", "10", "--out", str(tmp_path / "r"), "--quiet",
    )  # fmt: skip
    assert (code, out) == (0, ""), said
    assert Run.open(tmp_path / "r").mi["layer"].unique().tolist() == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "toy-raesoner"], "toy-reasoner"),
        (["--problems", "missing.jsonl"], "load problems: expected a file that can be read"),
        (["--layers", "one"], '--layers "all" or numbers'),
        (["--device-map", "{oops"], "--device-map"),
        (["--temperature", "-1"], "expected temperature from 0"),
        (["--dtype", "float99"], "float99"),
    ],
)
def test_the_command_ends_in_one_clear_line(
    tmp_path: Path, arguments: list[str], message: str, peaklens: Command
) -> None:
    code, _, said = peaklens("trace", "--n", "2", "--out", str(tmp_path / "r"), *arguments)
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("peaklens: ")]) == 1


def test_imports_stay_light_and_models_are_listed(tmp_path: Path) -> None:
    """One after the other in one process, as a user starts it: what the first of them brings in is seen with it."""
    heavy = "pandas", "circuitsvis", "transformer_lens", "transformers"
    statements = "import interp", "import probes", "import analyses", "from analyses.commands import cli"
    code = "import sys\n" + "\n".join(
        f"{statement}\nprint({statement!r}, [m for m in {heavy!r} if m in sys.modules])" for statement in statements
    )
    command = [sys.executable, "-c", f"{code}\nsys.argv = ['peaklens', 'models']\ncli.main()"]
    environment = {**os.environ, "PEAKLENS_CACHE": str(tmp_path), "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[: len(statements)] == [f"{statement} []" for statement in statements]
    for part in ("toy-reasoner", "toy-base", "bundled", "smollm2-135m-instruct", "known", "peaklens models pull"):
        assert part in done.stdout


def test_help_loads_no_library() -> None:
    heavy = "pandas", "circuitsvis", "transformer_lens", "transformers", "torch"
    code = (
        "import sys; sys.argv = ['peaklens', '--help']\nfrom analyses.commands.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        f"print('LOADED', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trace" in done.stdout
    assert "LOADED []" in done.stdout
