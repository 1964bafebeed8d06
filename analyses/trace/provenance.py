"""Of what model, under what versions, a run is: recorded in ``run.json``, and compared when the run goes on.

1. The model is pinned by what it is (:func:`interp.loading.identity.model_identity`), part by part; a part that changed
   is refused by its name. Its name, path and revision are recorded and not compared: the same content is one model.
2. The chat template counts where prompts go through it.
3. Other versions of the libraries are told and recorded, not refused: a finished run can be asked more after an update,
   and whether the model is still the same is what 1 compares. Numbers of a resumed run are to the last digit those of
   an uninterrupted one under the same versions only. Where versions differ, a library may write the same
   configuration with other defaults and the same tokenizer in another form: then values that both have are compared,
   and how texts are cut.
4. The engine that computes (:mod:`interp.engines.registry`) is pinned, for two engines differ by rounding, and what was
   decoded would not be to the last digit what goes on. Runs that say none were the bridge's.
5. A run of a version that noted fewer parts is gone on with, and says so; the missing parts are taken from the model
   now.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from analyses.store.pinned import differences, read_pinned
from interp.engines.registry import model_facts
from interp.loading.identity import model_identity
from interp.loading.licence import model_licence
from interp.loading.models import model_source
from interp.types import Bridge

__all__ = ["LIBRARIES", "RunWarning", "compare_provenance", "engine_begun_with", "provenance_of"]

LIBRARIES = ("peaklens", "torch", "transformers", "transformer-lens", "tokenizers")
_VALUES = ("config", "generation")  # compared value by value
_FORM = ("tokenizer",)  # the same thing may be written in another form by another version
_NOTED = ("kind", "revision", "licence")
_ENGINE_THEN = "bridge"  # of runs that name none


class RunWarning(UserWarning):
    """Something about a run that its user should know, and that does not stop it.

    >>> issubclass(RunWarning, UserWarning)
    True
    """


def provenance_of(model: Bridge) -> dict[str, Any]:
    """What ``run.json`` records of a model and of the libraries.

    >>> from interp.loading.models import load_model
    >>> list(provenance_of(load_model("toy-reasoner")))
    ['model', 'versions', 'writers']

    ``writers`` lists the versions that wrote to a run, each with the time from which on it did.
    """
    source = model_source(model)
    versions = {name: _version(name) for name in LIBRARIES}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "model": {
            "kind": source.kind,
            "revision": source.revision,
            "licence": model_licence(source.kind, source.path),
            **model_identity(model),
        },
        "versions": versions,
        "writers": [{"since": now, "model": model_facts(model).name, "versions": versions}],
    }


@cache
def _version(library: str) -> str:
    """Of the library as this process has it; it is asked at every begin, and each answer is a file to be parsed."""
    return importlib.metadata.version(library)


def engine_begun_with(folder: Path) -> str | None:
    """The engine that a run folder is pinned to, ``None`` where nothing is begun.

    >>> engine_begun_with(Path("nowhere")) is None
    True
    """
    if not (folder / "run.json").is_file():
        return None
    model = read_pinned(folder)["provenance"].get("model")
    return str(model.get("engine", _ENGINE_THEN)) if isinstance(model, dict) else _ENGINE_THEN


def compare_provenance(
    old: Mapping[str, Any], new: Mapping[str, Any], *, chat: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """What a run is to record from now on, and what differs in a way that makes it another run.

    >>> old = {"model": {"weight_hash": "aa", "hooks": []}, "versions": {"torch": "2.13.0"}}
    >>> compare_provenance(old, old | {"model": {"weight_hash": "aa", "hooks": ["blocks.0.hook_out: off"]}})[1]
    ['provenance.model.hooks is [] there and ["blocks.0.hook_out: off"] now']

    Args:
        chat: whether prompts go through the chat template.

    Warns:
        RunWarning: other versions than those that wrote to the run so far; parts of the model that were not recorded.
    """
    before, now = dict(old.get("model") or {}), dict(new["model"])
    if before:
        before.setdefault("engine", _ENGINE_THEN)
    known, versions = dict(old.get("versions") or {}), dict(new["versions"])
    same = all(known.get(name) == versions.get(name) for name in ("transformers", "tokenizers"))
    found: list[str] = []
    for part, value in now.items():
        if part in _NOTED or part not in before or (part == "chat_template" and not chat):
            continue
        was = before[part]
        if part in _FORM and not same:
            continue
        if part in _VALUES and not same and isinstance(was, dict):
            was, value = _common(was, value)
        found += differences(f"provenance.model.{part}", was, value)
    rest = {key: value for key, value in old.items() if key not in ("model", "versions", "writers")}
    more = {key: value for key, value in new.items() if key not in ("model", "versions", "writers")}
    found += differences("provenance", rest, more)
    merged = dict(old) | {"model": {**now, **before, **{part: now[part] for part in _NOTED if part in now}}}
    merged.setdefault("versions", versions)
    writers = list(old.get("writers") or ([{"since": None, "versions": known}] if known else []))
    if not found:
        lacking = [part for part in now if part not in before and part not in _NOTED]
        if lacking:
            warnings.warn(
                f"this run does not say what its model's {', '.join(lacking)} were: an earlier version of peaklens "
                "wrote it. They are taken to be those of the model now.",
                RunWarning,
                stacklevel=2,
            )
        if all(writer.get("versions") != versions for writer in writers):
            if writers:
                warnings.warn(_other_versions(dict(writers[-1]["versions"]), versions), RunWarning, stacklevel=2)
            writers += new.get("writers", [])
    return merged | {"writers": writers}, found


def _common(old: Any, new: Any) -> tuple[Any, Any]:
    """Both, without what only one of them has."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return old, new
    pairs = {key: _common(old[key], new[key]) for key in old if key in new}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


def _other_versions(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    changed = {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}
    told = ", ".join(f"{name} {was or 'unknown'}, now {now or 'none'}" for name, (was, now) in changed.items())
    patch = all(was and now and _release(was) == _release(now) for was, now in changed.values())
    much = "last digits" if patch else "more than last digits"
    return f"this run was written with {told}; the versions are recorded, and new numbers may differ in {much}"


def _release(version: str) -> list[str]:
    """Its major and minor number, which say that things work as before."""
    return version.split("+")[0].split(".")[:2]
