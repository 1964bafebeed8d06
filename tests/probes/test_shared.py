"""Work on rows that threads share: the same numbers, errors that arrive, and torch as it was."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from probes import shared as module
from probes.errors import InputError
from probes.hsic import nhsic, nhsic_dense
from probes.shared import shared

CPU = torch.device("cpu")


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(module, "_LEAST", 64)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(40, 24), (3, 7, 24), (30, 1, 24)])
@pytest.mark.parametrize("options", [{}, {"sigma": "median"}, {"drop_top": 3}])
def test_scores_are_those_of_the_dense_formula(
    three_threads: None, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], options: dict
) -> None:
    torch.manual_seed(0)
    steps, answer = torch.randn(*shape) * 40, torch.randn(*shape[:-2], shape[-1]) * 40
    by: set[int] = set()
    whole = module._by_threads

    def seen(work, *how):
        def noted(rows, max_bytes):
            by.add(threading.get_ident())
            assert torch.get_num_threads() == 1
            work(rows, max_bytes)

        whole(noted, *how)

    monkeypatch.setattr(module, "_by_threads", seen)
    found = nhsic(steps, answer, **options)
    assert by, "threads had a share"
    torch.testing.assert_close(found, nhsic_dense(steps, answer, **options), rtol=0, atol=1e-9)


def test_every_row_once_whoever_takes_it(three_threads: None) -> None:
    counts, together = torch.zeros(50, dtype=torch.long), threading.Barrier(3)

    def work(rows: torch.Tensor, max_bytes: int) -> None:
        assert max_bytes == 100
        assert not torch.is_grad_enabled()
        if rows[0] < 12:  # the first three shares, which only three threads at once can meet at
            together.wait(timeout=60)
        counts[rows] += 1

    shared(work, 50, 16, 300, CPU)
    assert counts.tolist() == [1] * 50


@pytest.mark.parametrize("where", [0, 49])
def test_what_a_thread_raises_is_raised_and_ends_the_rest(three_threads: None, where: int) -> None:
    def work(rows: torch.Tensor, max_bytes: int) -> None:
        if where in rows:
            raise InputError("work", expected="others", received=str(where), remedy="None.")

    with pytest.raises(InputError, match=f"received {where}"):
        shared(work, 50, 16, 300, CPU)


def test_inference_mode_is_that_of_the_caller(three_threads: None) -> None:
    with torch.inference_mode():
        out = torch.zeros(50)
        shared(lambda rows, _: out.index_fill_(0, rows, 1.0), 50, 16, 300, CPU)
    assert out.is_inference()
    assert out.sum() == 50


def test_calls_of_several_threads_do_not_wait_for_one_another(three_threads: None) -> None:
    counts, both = torch.zeros(2, 50), threading.Barrier(2)

    def call(number: int) -> None:
        def work(rows: torch.Tensor, max_bytes: int) -> None:
            if 0 in rows:
                both.wait(timeout=60)
            counts[number, rows] += 1

        shared(work, 50, 16, 300, CPU)

    torch.set_num_threads(3)
    with ThreadPoolExecutor(2) as callers:
        list(callers.map(call, range(2)))
    assert (counts == 1).all()


def _in_child() -> None:
    torch.set_num_threads(2)
    seen = torch.zeros(50)
    shared(lambda rows, _: seen.index_add_(0, rows, torch.ones(len(rows))), 50, 16, 300, CPU)
    assert (seen == 1).all()


def test_a_forked_process_has_threads_of_its_own(three_threads: None) -> None:
    shared(lambda rows, _: None, 50, 16, 300, CPU)
    child = multiprocessing.get_context("fork").Process(target=_in_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_few_rows_are_one_threads(three_threads: None) -> None:
    seen: list[int] = []
    shared(lambda rows, max_bytes: seen.extend((len(rows), max_bytes)), 7, 16, 300, CPU)
    assert seen == [7, 300]
