r"""Processes of the algebra: endless, dying, forgotten and hostile questions, and what such a process cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from analyses.grading import Grade, Grader, Reason, Status
from analyses.grading.algebra import verdict
from analyses.grading.formula import MAX_FORMULA, is_formula
from analyses.grading.worker import Worker
from interp.errors import InputError

ENDLESS = "9^{9^{9^{9}}}"
ALGEBRA = (r"2\sqrt{3}", r"\boxed{\sqrt{12}}")


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_a_time_out_is_not_wrong_and_the_next_answer_is_graded() -> None:
    before = _children()
    with Grader(timeout=0.8) as grader:
        first = grader.grade([ALGEBRA])[0]
        process = grader._workers[0]._process
        assert process is not None
        begun = time.monotonic()
        answer, gold, after = grader.grade([("2", rf"\boxed{{{ENDLESS}}}"), (ENDLESS, ALGEBRA[1]), ALGEBRA])
        assert time.monotonic() - begun < 30
        statuses = [str(grade.status) for grade in (first, answer, gold, after)]
        assert statuses == ["correct", "timeout", "timeout", "correct"]
        assert answer.score != answer.score
        assert answer.detail == "no verdict within 0.8 s"
        assert process.poll() is not None
        assert len(_children() - before) == 1
    assert _children() == before


def test_a_process_that_died_is_an_error_and_is_replaced() -> None:
    with Grader(timeout=20.0) as grader:
        grader.grade([ALGEBRA])
        process = grader._workers[0]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        died, after = grader.grade([ALGEBRA, ("1", r"\boxed{\sin^2 x + \cos^2 x}")])
        assert (died.status, after.status) == (Status.ERROR, Status.CORRECT)
        assert "died" in died.detail
        assert died.score != died.score


def test_numbers_and_words_need_no_process() -> None:
    with Grader() as grader:
        grader.grade(
            [("18", "#### 18"), ("18", "#### 19"), ("even", r"\boxed{\text{odd}}"), ("50%", "The answer is 0.5")]
        )
        assert grader._workers[0]._process is None


def test_a_grader_that_is_forgotten_leaves_no_process() -> None:
    before = _children()
    grader = Grader(timeout=20.0)
    grader.grade([ALGEBRA])
    assert len(_children() - before) == 1
    del grader
    assert _children() == before


def test_several_workers_say_the_same_in_order() -> None:
    pairs = [ALGEBRA, ("6", r"\boxed{\sqrt{16}}"), ("4", r"\boxed{\sqrt{16}}"), ("5", r"\boxed{\sqrt{16}}"), ALGEBRA]
    with Grader(timeout=20.0, workers=2) as grader:
        found = [str(grade.status) for grade in grader.grade(pairs)]
        assert found == ["correct", "wrong", "correct", "wrong", "correct"]
        assert all(worker._process is not None for worker in grader._workers)


def test_a_script_without_a_main_guard_grades(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "print('begun')\n"
        "from analyses.grading import Grader\n"
        "with Grader(timeout=60) as grader:\n"
        "    print(grader.grade([(r'2\\sqrt{3}', r'\\boxed{\\sqrt{12}}')])[0].status)\n"
    )
    root = str(Path(__file__).parents[3])
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
        check=False,
    )
    assert run.stdout.split() == ["begun", "correct"], run.stderr  # begun once: the script was not run again


PAYLOADS = (
    "__import__('os').system('touch {file}')",
    "__import__(chr(111)+chr(115)).system(chr(116))",
    r"\text{{__import__('os').system('touch {file}')}}",
    r"\operatorname{{exec}}(\operatorname{{chr}}(105))",
    r"\sum_{{n=0}}^{{\infty}}\frac{{1}}{{n!(n+\operatorname{{exec}}(\operatorname{{chr}}(105)))}}",
    "().__class__.__base__.__subclasses__()",
    "1 if open('{file}','w') else 2",
    "x_{{__import__('os')}}",
    '2+exec(\'open("{file}","w")\')',
    r"\input{{/etc/passwd}}",
    r"\begin{{exec}}1\end{{exec}}",
    "os.system",
    "lambda: 0",
)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_answers_are_wrong_and_run_nothing(payload: str, tmp_path: Path, grader: Grader) -> None:
    file = tmp_path / "touched"
    text = payload.format(file=file)
    gold = next(str(number) for number in range(18, 1000) if str(number) not in text)  # folders have numbers, too
    boxed, bare, marked, as_gold = grader.grade(
        [(gold, rf"\boxed{{{text}}}"), (gold, text), (gold, f"The answer is {text}"), (text, rf"\boxed{{{gold}}}")]
    )
    assert boxed.status is Status.WRONG
    assert {bare.status, marked.status} <= {Status.WRONG, Status.NO_ANSWER}
    assert as_gold.status in (Status.ERROR, Status.WRONG)
    worker = grader._workers[0]
    assert worker.ask(gold, text)[0] in ("different", "error")  # what keeps it out is in the process as well
    assert not file.exists()


def test_formulas_are_made_of_known_commands_only() -> None:
    hostile = [payload.format(file="f") for payload in PAYLOADS[:10]]
    for text in (*hostile, "", " ", "a" * (MAX_FORMULA + 1), "a'", 'a"', "a`b`", "a@b"):
        assert not is_formula(text), text
    matrix, sets = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"(-\infty, 2) \cup (3, 4]"
    for text in (matrix, sets, r"\frac{1}{2}", r"\{1, 2\}", "x_1^2"):
        assert is_formula(text), text


RESTRICTED = """
import os, socket, subprocess, sys
import analyses.grading.algebra as algebra
algebra.verdict("2", "2")
algebra._restrict()
import sympy
def lambdified():
    sympy.lambdify(sympy.Symbol("x"), sympy.Symbol("x") + 1)
tries = {
    "system": lambda: os.system("true"), "popen": lambda: subprocess.Popen(["true"]), "fork": os.fork,
    "write": lambda: open(sys.argv[1], "w"), "append": lambda: os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT),
    "remove": lambda: os.remove(sys.argv[1]), "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    "lambdify": lambdified, "sympify": lambda: sympy.sympify("__import__('os').getpid()"),
}
for name, attempt in tries.items():
    try:
        attempt()
    except (PermissionError, sympy.SympifyError) as error:
        print(name, type(error).__name__)
    else:
        print(name, "was done")
print(algebra.verdict(r"\\sqrt{12}", r"2 \\sqrt{3}"), algebra.verdict("2", r"\\sum_{n=0}^{\\infty} 2^{-n}"))
"""


def test_the_process_can_neither_run_nor_write_nor_connect(tmp_path: Path) -> None:
    file = tmp_path / "file"
    run = subprocess.run(
        [sys.executable, "-c", RESTRICTED, str(file)], capture_output=True, text=True, check=True, timeout=120
    )
    *tries, verdicts = run.stdout.splitlines()
    refused = {"sympify": "SympifyError"}
    names = ("system", "popen", "fork", "write", "append", "remove", "connect", "lambdify", "sympify")
    assert tries == [f"{name} {refused.get(name, 'PermissionError')}" for name in names]
    assert verdicts == "('same', '') ('same', '')"
    assert not file.exists()


def test_numbers_of_a_formula_are_not_evaluated_as_python_and_no_model_library_is_imported() -> None:
    code = (
        "import sys, analyses.grading.algebra as w\n"
        "w.verdict('2', '3 x'); w._no_eval()\n"
        "print(sorted({'torch', 'transformer_lens', 'pandas', 'numpy', 'interp'} & set(sys.modules)))\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, a: event == 'compile' and a[0] is not None and seen.append(str(a[0])))\n"
        "said = w.verdict('12 x + 7.5', '3(4 x + 2.5)')\n"
        "print(said, w._read('31415 x'), [text for text in seen if 'monomial' not in text])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "('same', '') 31415*x []"]


def test_verdicts_tell_a_bad_gold_answer_from_a_bad_answer() -> None:
    assert verdict(r"\frac{1}{", "2")[0] == "gold"
    assert verdict("2", r"\frac{1}{") == ("different", "the answer is not a formula")


def test_very_long_answers_are_wrong_at_once(grader: Grader) -> None:
    long = "1+" * 700 + "1"
    assert grader.grade([("18", rf"\boxed{{{long}}}")])[0].status is Status.WRONG


def test_bad_input_is_refused() -> None:
    with Grader() as grader, pytest.raises(InputError, match="a blank one in pair 1, an answerless problem"):
        grader.grade([("1", "1"), (" ", "1")])
    for timeout, workers in ((0.0, 1), (float("nan"), 1), (float("inf"), 1), (1.0, 0)):
        with pytest.raises(InputError, match="a timeout above 0 seconds and at least one worker"):
            Grader(timeout=timeout, workers=workers)


def test_a_process_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(RuntimeError, match="did not start: no such module"):
        Worker(1.0).ask("1", "2")


def test_a_grade_is_plain_data() -> None:
    grade = Grader().grade([("18", "#### 17")])[0]
    assert grade.to_dict() == {"status": "wrong", "extracted": "17", "reason": "hash", "gold": "18", "detail": ""}
    assert [Grade(s, "", Reason.NONE, "1").score for s in (Status.CORRECT, Status.WRONG, Status.NO_ANSWER)] == [1, 0, 0]
