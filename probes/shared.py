"""Rows of one piece of work shared between threads of this process, each of which computes on its own.

What a probe does with a vector is a chain of small kernels. Torch shares each of them between its threads, which wait
for one another at the end of each: two threads then gain next to nothing. Here each thread takes rows of its own
through the whole chain.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["shared"]

#: Works on the rows of these numbers, ascending, within so many bytes.
Work = Callable[[Int64[Tensor, " row"], int], None]

# Elements below which a thread is not worth waking, and shares of each: who is done sooner takes one more.
_LEAST, _SHARES = 2**17, 4

_pools: dict[int, ThreadPoolExecutor] = {}
_busy = threading.Lock()


def shared(work: Work, n_rows: int, d: int, max_bytes: int, device: torch.device) -> None:
    """Have rows 0 to `n_rows - 1`, of `d` elements, worked on without gradients: on a CPU by all of torch's threads.

    >>> seen = torch.zeros(5)
    >>> shared(lambda rows, max_bytes: seen.index_add_(0, rows, torch.ones(len(rows))), 5, 8, 2**20, seen.device)
    >>> seen.tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]

    Rows that follow one another are worked on together; where few are there, by this thread alone. Meanwhile torch
    computes with one thread in each, afterwards with all again. What one raises is raised here, when all have ended.
    """
    threads = min(torch.get_num_threads(), n_rows * d // _LEAST) if device.type == "cpu" else 1
    # Another thread of this process may be at it: its own share of the processors is then what is left.
    if threads <= 1 or not _busy.acquire(blocking=False):
        with torch.no_grad():
            work(torch.arange(n_rows), max_bytes)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _by_threads(work, n_rows, min(n_rows * d // _LEAST, _SHARES * threads), threads, max_bytes)
    finally:
        torch.set_num_threads(before)
        _busy.release()


def _by_threads(work: Work, n_rows: int, shares: int, threads: int, max_bytes: int) -> None:
    ends = [n_rows * share // shares for share in range(shares + 1)]
    waiting = deque(pairwise(ends))  # whoever is free takes the next
    begun = threading.Barrier(threads)  # who computes first would hold the others up for milliseconds
    is_inference = torch.is_inference_mode_enabled()  # like gradients, a thread's own

    def do() -> None:
        begun.wait()
        try:
            with torch.inference_mode(is_inference), torch.no_grad():
                while (share := _next(waiting)) is not None:
                    work(torch.arange(*share), max_bytes // threads)
        finally:
            waiting.clear()  # where this one failed nobody need go on

    if threads not in _pools:
        # They stay: what is new has to make room for products of matrices first.
        _pools[threads] = ThreadPoolExecutor(threads - 1, "probes")
    others = [_pools[threads].submit(do) for _ in range(threads - 1)]
    try:
        do()
    finally:
        wait(others)  # they write into what the caller owns
    for other in others:
        other.result()


def _next(waiting: deque[tuple[int, int]]) -> tuple[int, int] | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _forked() -> None:
    """A forked process has none of the threads, nor whoever held the lock."""
    global _busy
    _pools.clear()
    _busy = threading.Lock()


os.register_at_fork(after_in_child=_forked)
