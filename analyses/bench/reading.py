"""Reading a finished text, all layers' streams scored on the way, beside Hugging Face's own pass: seconds and memory.

1. Each contender reads the same text once: Hugging Face with sdpa attention, bare and with all hidden states kept; we,
   with all layers' streams handed on in pieces, and with nHSIC of all of them against a reference.
2. They take turns; ratios are taken within a turn, then their median. Texts from `ONCE` tokens on are read once.
3. Memory is what the process grew by at most, above what it held before the call: of a CPU the kernel's count, which is
   set back before each call (Linux alone); of a GPU torch's.

A text may be longer than the model was made for where its positions are rotary: what it costs is the same.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analyses.bench.decoding import check_folder, plain_model
from analyses.bench.timing import bench_prompts, check_counts, ratios, spread
from interp.encoding import encode
from interp.loading.hugging_face import limit_context
from interp.record import ResidualPieces
from interp.types import Bridge
from probes import nhsic

__all__ = ["ONCE", "READERS", "bench_reading"]

BARE, HIDDEN, OURS, SCORED = (
    "HF sdpa",
    "HF sdpa, hidden states",
    "peaklens, all layers",
    "peaklens, nHSIC at all layers",
)
READERS = (BARE, HIDDEN, OURS, SCORED)
ONCE = 8000


@torch.no_grad()
def bench_reading(
    model: Bridge,
    *,
    lengths: Sequence[int] = (1024, 4096, 8000, 16000),
    repeats: int = 3,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per length and contender.

    >>> from interp import load_model
    >>> rows = bench_reading(load_model("toy-reasoner"), lengths=(20,), repeats=1)
    >>> [(row["reader"], row["tokens"]) for row in rows][:2]
    [('HF sdpa', 20), ('HF sdpa, hidden states', 20)]

    Args:
        model: loaded from a Hugging Face folder: the plain model is read from there again.
        lengths: tokens of each text.
        repeats: timings of each contender.
        on_run: told before each timing how many are done, of how many, and what comes next.

    Returns:
        Rows with ``seconds``, ``times_hf`` (seconds over those of Hugging Face with hidden states) and ``grown_gb``
        (1e9 bytes), each a :class:`analyses.bench.timing.Spread`; ``grown_gb`` is ``None`` where nobody counts.

    Raises:
        InputError: numbers out of range, a model that is not a folder, one with a table of fewer positions.
    """
    check_folder(model)
    check_counts(model, lengths=(min(lengths, default=0), 2), repeats=(repeats, 1))
    readers = _readers(model, plain_model(model, "sdpa"))
    turns = {length: repeats if length < ONCE else 1 for length in lengths}
    done, total = 0, sum(turns.values()) * len(readers)
    rows = []
    with _room(model, max(lengths)):
        for length in lengths:
            ids = bench_prompts(model, 1, length)
            for reader in readers.values():  # the first call also pays for memory and libraries
                reader(ids[:, :16])
            taken: dict[str, list[tuple[float, float | None]]] = {name: [] for name in readers}
            for _ in range(turns[length]):
                for name, reader in readers.items():
                    on_run(done, total, f"{name}, {length} tokens")
                    taken[name].append(_measured(reader, ids, _device(model)))
                    done += 1
            against = [seconds for seconds, _ in taken[HIDDEN]]
            for name, runs in taken.items():
                seconds = [seconds for seconds, _ in runs]
                grown = [grown for _, grown in runs if grown is not None]
                rows.append(
                    {
                        "reader": name,
                        "tokens": length,
                        "seconds": spread(seconds),
                        "times_hf": spread(ratios(seconds, against)),
                        "grown_gb": spread(grown) if grown else None,
                    }
                )
    on_run(done, total, "done")
    return rows


def _readers(model: Bridge, plain: Any) -> dict[str, Callable[[Tensor], object]]:
    dice = torch.Generator().manual_seed(0)
    answers = torch.randn(model.cfg.n_layers, model.cfg.d_model, generator=dice).to(_device(model))

    def read(ids: Tensor, take: Callable[[Tensor], object]) -> list[object]:
        found: list[object] = []
        record = ResidualPieces(on_piece=lambda piece: found.append(take(piece.residuals["resid_post"])))
        encode(model, [ids[0]], record=record)
        return found

    return {
        BARE: lambda ids: plain(ids.to(plain.device), use_cache=False, logits_to_keep=1),
        HIDDEN: lambda ids: plain(ids.to(plain.device), use_cache=False, logits_to_keep=1, output_hidden_states=True),
        OURS: lambda ids: read(ids, lambda steps: None),
        SCORED: lambda ids: read(ids, lambda steps: nhsic(steps, answers).cpu()),
    }


def _measured(reader: Callable[[Tensor], object], ids: Tensor, device: torch.device) -> tuple[float, float | None]:
    """Seconds of a call, and by how many gigabytes memory grew at most."""
    gc.collect()
    is_gpu, before = device.type == "cuda", 0.0
    if is_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = float(torch.cuda.memory_allocated(device))
    counted = is_gpu or _set_back()
    if counted and not is_gpu:
        before = _held("VmRSS")
    start = time.perf_counter()
    found = reader(ids)
    if is_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    del found
    if not counted:
        return seconds, None
    most = float(torch.cuda.max_memory_allocated(device)) if is_gpu else _held("VmHWM")
    return seconds, max(0.0, most - before) / 1e9


def _set_back() -> bool:
    """Have the kernel count the process's largest memory from now on, if it can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _held(what: str) -> float:
    """Bytes of this process, from the kernel's list."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


@contextmanager
def _room(model: Bridge, length: int) -> Iterator[None]:
    """Let texts be that long for the while."""
    held, n_ctx = vars(model).get("_peaklens_n_ctx"), model.cfg.n_ctx
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # what is read means nothing
        limit_context(model, max(length, n_ctx), "the bench's model")
    try:
        yield
    finally:
        model.cfg.n_ctx = n_ctx
        vars(model)["_peaklens_n_ctx"] = held


def _device(model: Bridge) -> torch.device:
    device = next(model.original_model.parameters()).device
    assert isinstance(device, torch.device)
    return device
