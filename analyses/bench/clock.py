"""What a process does that is timed: a clock at the first token, processor time, by how much its memory grew.

This file is also run by interpreters that lack this package (`analyses/bench/nnsight_script.py`): it imports torch and
the standard library alone.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["Clock", "Memory", "timed_decode", "timed_read"]


class Clock:
    """Notes when a call has its first token, from wherever the engine lets one look in at every step."""

    def __init__(self) -> None:
        self.first = self.start = time.perf_counter()
        self.first_cpu = self.start_cpu = time.process_time()

    def update(self, n: int) -> None:
        """As the progress bar of ``decode``, which has the tokens by then."""
        self._note()

    def __call__(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """As a stopping criterion of ``generate``, which never stops anything."""
        if self.first == self.start:
            ids[0, -1].item()  # a GPU may still be at it
            self._note()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    def _note(self) -> None:
        if self.first == self.start:
            self.first, self.first_cpu = time.perf_counter(), time.process_time()


class Memory:
    """By how many bytes this process has grown at most, above what it held when this was made.

    Of a GPU what torch has handed out; else what the kernel counts as resident, whose largest is set back before each
    call. That is done on Linux; elsewhere what a call needs below the largest so far, that of loading say, goes unseen.

    >>> memory = Memory(torch.device("cpu"))
    >>> memory.begin()
    >>> held = torch.ones(8_000_000, dtype=torch.float64)
    >>> 60e6 < memory.grown() < 70e6
    True
    """

    def __init__(self, device: torch.device) -> None:
        gc.collect()
        _give_back()
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            self.before = _kernel("VmRSS")

    def begin(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            _give_back()
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def grown(self) -> int:
        most = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _kernel("VmHWM")
        return max(0, int(most) - self.before)


def _give_back() -> None:
    """Have the C library give back what is free: a call that used that up would seem to need nothing."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim is not None:
            trim(0)


def _kernel(what: str) -> int:
    """Bytes of this process, from the kernel's list.

    ``ru_maxrss`` of a new process is on Linux at least what its parent held: it is asked elsewhere alone.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def timed_decode(
    generate: Callable[[torch.Tensor, int, Clock], torch.Tensor], ids: list[list[int]], new_tokens: int, memory: Memory
) -> dict[str, Any]:
    """Continue prompts of one length: seconds to the first token and from there, tokens, bytes."""
    memory.begin()
    clock = Clock()
    # Tokens on the CPU are tokens that were waited for, whatever the device.
    tokens = generate(torch.tensor(ids), new_tokens, clock).cpu()
    end, end_cpu = time.perf_counter(), time.process_time()
    return {
        "first": clock.first - clock.start,
        "first_cpu": clock.first_cpu - clock.start_cpu,
        "seconds": end - clock.first,
        "cpu": end_cpu - clock.first_cpu,
        "tokens": tokens.tolist(),
        "grown": memory.grown(),
    }


def timed_read(read: Callable[[torch.Tensor], Any], ids: list[list[int]], memory: Memory) -> dict[str, Any]:
    """Read a text: seconds, processor seconds, bytes."""
    memory.begin()
    start, start_cpu = time.perf_counter(), time.process_time()
    found = read(torch.tensor(ids))
    if memory.device.type == "cuda":
        torch.cuda.synchronize(memory.device)
    measured = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    del found
    return measured | {"grown": memory.grown()}
