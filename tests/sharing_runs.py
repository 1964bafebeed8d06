"""How the runs of the tests of sharing are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families as F

from analyses.problems import bundled_problems
from analyses.trace import TraceRun, trace

OPTIONS: dict[str, Any] = {
    "batch_size": 2, "max_new_tokens": 8, "samples": 2, "temperature": 0.8, "layers": [2], "lens": 0, "null": 19,
    "pool": bundled_problems(40),
}  # fmt: skip


def traced(problems: list[Any], out: Path, **options: Any) -> TraceRun:
    return trace(F.pair("toy")[1], problems, out, **{**OPTIONS, **options})
