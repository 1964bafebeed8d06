"""Run folders to write into, what is left over in them, and what is said where something is refused."""

from pathlib import Path

import pandas
import pytest

from analyses.store import Run
from interp.errors import InputError

SETTINGS = {"model": "toy", "temperature": 0.6, "layers": [0, 4], "problems": {"p2": "aa", "p1": "bb"}}
PROVENANCE = {"versions": {"torch": "2.13"}, "revision": "abc"}


def start(path, kind="watch", settings=SETTINGS, provenance=PROVENANCE, **options):
    return Run.start(path, kind=kind, settings=settings, provenance=provenance, **options)


def temporaries(folder):
    return list(Path(folder).rglob(".tmp-*"))


def refusal(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    return str(caught.value)


def frame():
    tokens = ["NA", "null", "", " ", "\r", "\n", "\r\n", "a,b", '"', "nan", "007", "#", "\\", "é🎉", "\t", "None"]
    return pandas.DataFrame(
        {
            "token": tokens,
            "digits": [str(number) for number in range(16)],
            "mi": [0.1 + 0.2, float("nan"), 1e-310, float("-inf"), *[1 / 3] * 12],
            "count": range(16),
            "peak": [True, False] * 8,
            "rank": pandas.array([1, None] * 8, dtype="Int64"),
        }
    )
