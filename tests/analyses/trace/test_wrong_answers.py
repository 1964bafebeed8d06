"""Which wrong answers are drawn: told by a literal loop over the pool, and the same however a run grows."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from analyses.problems import Problem, bundled_problems
from analyses.report import report
from analyses.report.summary import null_sentence, summary
from analyses.store import Run
from analyses.trace.probing import Probing
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from analyses.trace.tracing import trace
from analyses.trace.wrong_answers import WrongAnswers
from interp import InputError, load_model

SMALL = {"max_new_tokens": 6, "batch_size": 8, "report": False, "layers": [2]}  # where 19 wrong answers do


@pytest.fixture(scope="module")
def model() -> object:
    return load_model("toy-reasoner", device="cpu")


def problem(name: str, solution: str, answer: str) -> Problem:
    return Problem(id=name, question="4 A + 9 ? ->", solution=solution, answer=answer)


def drawn(model: object, own: Problem, pool: list[Problem], count: int, match: str = "kind", **options: object):  # type: ignore[no-untyped-def]
    tracer = Tracer(model, [own], TraceSettings(max_new_tokens=4, **options))
    return WrongAnswers(tracer, pool, count, match, 0).drawn(own.id)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("18", "18.00", True),
        ("18", r"\\boxed{18}", True),
        ("1,800", "1800", True),
        ("$18", "18", True),
        ("18 eggs", "18", True),
        ("1/2", r"\\frac{1}{2}", True),
        ("0.5", "1/2", True),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("x = 5", "5", True),
        ("(C)", "C", True),
        ("500 cm", "5 m", True),
        ("Evelyn", r"\\text{Evelyn}", True),
        ("18", "-18", False),
        ("18", "180", False),
        ("123456789012345678901", "123456789012345678902", False),
        ("1/2", "1/3", False),
        ("B", "C", False),
        ("Evelyn", "Adam", False),
    ],
)
def test_an_answer_that_says_the_same_is_no_wrong_one(model: object, one: str, other: str, same: bool) -> None:
    one, other = one.replace("\\\\", "\\"), other.replace("\\\\", "\\")
    own, only = problem("own", "Therefore 4 .", one), problem("other", "now 7 .", other)
    if same:
        with pytest.raises(InputError, match="received 0 in a pool of 1 problems"):
            drawn(model, own, [only], 1)
    else:
        assert drawn(model, own, [only], 1).problems == ("other",)


def test_the_closest_ends_come_first(model: object) -> None:
    """Four problems of each closeness; of ten wrong answers four are of the first two, two of the third."""
    own = problem("own", "Therefore 4", "4")
    pool = [
        *(problem(f"right-{k}", f"B {k} + 0 is 4 . Therefore 4", "4.0") for k in range(4)),
        *(problem(f"token-{k}", f"B {k} + 0 gives 4", f"wrong {k}") for k in range(4)),
        *(problem(f"before-{k}", f"B {k} . Therefore {k + 5}", str(k + 5)) for k in range(4)),
        *(problem(f"kind-{k}", f"B {k} . is {k + 5}", str(k + 5)) for k in range(4)),
        *(problem(f"none-{k}", f"B {k} . is {k + 5} .", str(k + 5)) for k in range(4)),
    ]
    found = drawn(model, own, pool, 10)
    assert sorted(name.split("-")[0] for name in found.problems) == ["before"] * 4 + ["kind"] * 2 + ["token"] * 4
    assert found.matched == {"token": 4, "before": 4, "kind": 2, "none": 0}
    assert found.answers == len({p.answer for p in pool if p.id in found.problems})
    every = drawn(model, own, pool, 16)
    assert every.matched == {"token": 4, "before": 4, "kind": 4, "none": 4}
    any_kind = drawn(model, own, pool, 10, match="none")
    assert sum(any_kind.matched.values()) == 10
    assert not any(name.startswith("right") for name in any_kind.problems)
    with pytest.raises(InputError, match=r"17 other problems .* received 16 in a pool of 20"):
        drawn(model, own, pool, 17)


def test_a_reference_is_drawn_once_and_never_the_own_one(model: object) -> None:
    own = problem("own", "Therefore 4", "unknown to the grader: ?")
    pool = [problem(f"own-{k}", "Therefore 4", f"answer {k}") for k in range(3)]
    pool += [problem(f"alike-{k}", "Therefore 7", f"answer {k}") for k in range(3)]
    assert drawn(model, own, pool, 1).problems == ("alike-0",)
    with pytest.raises(InputError, match="received 1 in a pool of 6"):
        drawn(model, own, pool, 2)
    answers = [problem(str(k), f"Therefore {k}", str(k % 3)) for k in range(10)]
    with pytest.raises(InputError, match="received 2 in"):  # references are the answers 0, 1 and 2 here
        drawn(model, problem("own", "Therefore 4", "0"), answers, 3, reference="answer")


def test_what_the_model_cannot_read_is_no_wrong_answer(model: object) -> None:
    pool = [problem("long", "now " * 2000 + "7", "7"), problem("words", "an elephant", "8"), problem("fine", "9", "9")]
    assert drawn(model, problem("own", "Therefore 4", "4"), pool, 1).problems == ("fine",)
    with pytest.raises(InputError, match="received 1 in"):
        drawn(model, problem("own", "Therefore 4", "4"), pool, 2)


def test_the_draw_hangs_on_seed_problem_and_pool_alone(model: object) -> None:
    pool = bundled_problems(300)
    few, many = Tracer(model, pool[:1], TraceSettings()), Tracer(model, pool[:20][::-1], TraceSettings())
    name = pool[0].id
    first = WrongAnswers(few, pool, 25, "kind", 0).drawn(name)
    again = WrongAnswers(many, pool[::-1], 25, "kind", 0)
    drawn_last = [again.drawn(p.id) for p in pool[4::-1]][-1]
    assert drawn_last == first
    assert WrongAnswers(few, pool, 25, "kind", 1).drawn(name) != first
    assert again.drawn(pool[1].id).problems != first.problems


def test_tokens_are_matched_by_their_kind(model: object) -> None:
    own = problem("own", "is 4 .", "4")
    pool = [problem("stop", "is 7 .", "7"), problem("sign", "is 7 ;", "7"), problem("word", "is 7 now", "7")]
    assert drawn(model, own, pool, 1).problems == ("stop",)
    other = problem("own", "is 4 now", "4")
    assert drawn(model, other, [pool[0], problem("word", "is 7 Wait", "7")], 1).problems == ("word",)


def names(run: Run) -> dict[str, list[str]]:
    return {cell.problem: run.payload(cell)["null_problems"] for cell in run.cells()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.jsonl"
    write(path, bundled_problems(60))
    return path


def write(path: Path, problems: list[Problem]) -> None:
    path.write_text("\n".join(json.dumps(asdict(p)) for p in problems))


@pytest.fixture(scope="module")
def whole(model: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "p.jsonl", bundled_problems(60))
    return trace(model, folder / "p.jsonl", folder / "at-once", n=4, null=19, **SMALL).path


@pytest.fixture
def at_once(whole: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Of a run of the file's problems, in a folder of its own."""
    return names(Run.open(shutil.copytree(whole, tmp_path / "at-once")))


def test_a_run_that_grows_draws_from_the_pool_it_began_with(
    model: object, file: Path, tmp_path: Path, at_once: dict[str, list[str]]
) -> None:
    trace(model, file, tmp_path / "a", n=2, null=19, **SMALL)
    later = tmp_path / "b"
    trace(model, file, later, n=4, **SMALL)
    trace(model, file, later, n=4, null=19, **SMALL | {"batch_size": 3})
    assert names(Run.open(later)) == at_once, "asked later"
    write(file, bundled_problems(80))
    grown = trace(model, file, tmp_path / "a", n=4, **SMALL)
    assert names(grown) == at_once, "the file has grown since, the pool has not"
    given = trace(model, bundled_problems(4), later, **SMALL)  # no file at all any more
    assert names(given) == at_once
    with pytest.raises(InputError, match=r"expected the pool .* 60 problems .* received one of 80 problems"):
        trace(model, file, tmp_path / "a", n=4, null=19, **SMALL)


def test_a_pool_that_is_gone_or_changed_is_refused_until_it_is_given_again(
    model: object, file: Path, tmp_path: Path, at_once: dict[str, list[str]]
) -> None:
    out = tmp_path / "at-once"
    pool = out / "pool.jsonl"
    kept = pool.read_text()
    pool.write_text(kept.replace("Okay", "now", 1))
    with pytest.raises(InputError, match="received another pool, 60 problems"):
        trace(model, file, out, n=5, **SMALL)
    pool.unlink()
    with pytest.raises(InputError, match=r"received no such file\. Give --null 19 and the problem file"):
        trace(model, file, out, n=5, **SMALL)
    five = trace(model, file, out, n=5, null=19, **SMALL)
    assert {name: found for name, found in names(five).items() if name in at_once} == at_once
    assert pool.read_text() == kept


def test_too_few_wrong_answers_leave_a_finished_run_as_it_was(model: object, tmp_path: Path) -> None:
    problems = bundled_problems(12)
    trace(model, problems, tmp_path, n=2, **SMALL)
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(InputError, match="expected 99 other problems"):
        trace(model, problems, tmp_path, n=2, null=99, **SMALL)
    assert (tmp_path / "run.json").read_text() == before
    assert trace(model, problems, tmp_path, n=2, null=19, pool=bundled_problems(80), **SMALL).settings["null"]


def test_a_null_of_an_earlier_version_is_called_void_and_made_anew(
    model: object, file: Path, tmp_path: Path, at_once: dict[str, list[str]]
) -> None:
    out = tmp_path / "at-once"
    pinned = json.loads((out / "run.json").read_text())
    pinned["settings"]["null"] = {"null": 19, "null_match": "last_token", "null_statistic": "score", "null_seed": 0}
    (out / "run.json").write_text(json.dumps(pinned))
    old = Run.open(out)
    facts = summary(old)
    assert "null" not in facts
    assert "could be right ones" in null_sentence(old, facts)
    assert "No null:" in report([old])
    with pytest.raises(InputError, match="whose null an earlier version made"):
        trace(model, file, out, n=4, **SMALL)
    anew = trace(model, file, out, n=4, null=19, **SMALL)
    assert names(anew) == at_once
    assert summary(anew)["null"]["responses"] == 4


def test_the_pins_of_a_null_name_its_pool() -> None:
    pins = Probing(null=99).pins({"problems": 3, "digest": "d"})
    assert pins["null"]["null_pool"] == {"problems": 3, "digest": "d"}
    assert Probing.pinned(SimpleNamespace(settings=pins).settings).null == 99
