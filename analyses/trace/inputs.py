"""What a trace is given: a model by name or loaded, problems from a file, a list or bundled, and a pool of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.problem_files import FromFile, file_facts
from analyses.problems import Problem, bundled_problems, load_problems
from interp.engines.registry import check_model
from interp.errors import InputError
from interp.loading.models import BUNDLED, model_source
from interp.types import Bridge

__all__ = ["are_bundled", "check_ids_differ", "data_of", "name_or_model", "pool_of", "traced_problems"]

_BUNDLED = {"file": "bundled toy problems", "licence": "MIT"}
TOY_POOL = 2000  # what wrong answers are drawn from where no file is given


def name_or_model(model: str | Path | Bridge) -> str | Bridge:
    """A model's name, a path as one, or a loaded model; anything else is refused."""
    if isinstance(model, str | Path):
        return str(model)
    check_model(model)
    return model


def traced_problems(
    model: str | Bridge, problems: str | Path | Sequence[Problem] | None, n: int | None
) -> list[Problem]:
    """The problems of a run: given, read from a file, or those that come with a bundled toy."""
    if problems is None:
        name = model if isinstance(model, str) else model_source(model).name
        if name not in BUNDLED:
            raise InputError(
                "trace",
                expected="a problem file for a model that is not a bundled toy",
                received="none",
                remedy="Pass --problems FILE (JSONL, CSV or Parquet with question, solution and answer).",
            )
        return bundled_problems(n)
    if isinstance(problems, str | Path):
        return load_problems(problems, n=n)
    given: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
    if strange := [one for one in given if not isinstance(one, Problem)]:
        raise InputError(
            "trace",
            expected="a problem file, or a list of Problem",
            received=f"a list with {type(strange[0]).__name__}",
            remedy="Write analyses.problems.Problem(id=..., question=..., solution=..., answer=...) for each.",
        )
    if not given:
        raise InputError("trace", expected="at least one problem", received="none", remedy="Pass some.")
    return given[:n]


def data_of(problems: str | Path | Sequence[Problem] | None, chosen: Sequence[Problem]) -> dict[str, Any]:
    """What a run notes of the files its problems are from: the setting ``data``, where that is known.

    >>> data_of(None, bundled_problems(2))
    {'data': [{'file': 'bundled toy problems', 'licence': 'MIT'}]}
    """
    if isinstance(problems, str | Path):
        return {"data": [file_facts(Path(problems))]}
    if isinstance(problems, FromFile) and problems.source:
        return {"data": [problems.source]}
    return {"data": [dict(_BUNDLED)]} if are_bundled(chosen) else {}


def are_bundled(problems: Sequence[Problem]) -> bool:
    """Whether all of them are among those bundled with the toys.

    >>> are_bundled(bundled_problems(3)[1:])
    True
    """
    ids = {problem.id for problem in problems}
    if not all(name.startswith("toy-") for name in ids):
        return False
    for pool in (None, TOY_POOL):  # making the larger one takes longer than many a short run's start
        known = {problem.id: problem for problem in bundled_problems(pool)}
        if ids <= known.keys():
            return all(known[problem.id].digest == problem.digest for problem in problems)
    return False


def check_ids_differ(problems: Sequence[Problem]) -> None:
    """Refuse two problems of one id, which a run could not tell apart."""
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise InputError(
                "trace",
                expected="problems with ids of their own",
                received=f"two with the id {problem.id!r}",
                remedy="Number them anew, or leave one out.",
            )
        seen.add(problem.id)


def pool_of(
    problems: str | Path | Sequence[Problem] | None,
    pool: str | Path | Sequence[Problem] | None,
    chosen: list[Problem],
    toys: int = TOY_POOL,
) -> list[Problem]:
    """The problems whose answers may serve as wrong ones; ``toys`` is how many of the bundled ones."""
    if pool is None and problems is None:
        return bundled_problems(toys)
    source = problems if pool is None else pool
    if isinstance(source, str | Path):
        return load_problems(source)
    return chosen if source is None else list(source)
