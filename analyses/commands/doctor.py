"""The command ``peaklens doctor``: what this machine has for peaklens, what it lacks, and the command that mends it.

1. What is asked for comes from the metadata of the installed package, which are those of ``pyproject.toml``.
2. Each thing looked at is a :class:`Finding`; what is *needed* and not there makes the exit code 1, what is *optional*
   is told with its command.
3. Where nothing needed is missing, the bundled toy decodes a few tokens: that all versions are right does not say that
   it runs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

__all__ = ["Finding", "doctor", "examine", "version"]

_DISK = 1_000_000_000  # bytes; a model that is pulled needs 0.75 GB while it is converted
_TOKENS = 16

State = Literal["ok", "missing", "optional"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        found: what is there; empty if nothing.
        asked: what should be.
        state: "ok"; "missing" if it is needed and not as it should be; "optional" if all else works without it.
        mend: the command that brings it, or what to do.
    """

    what: str
    found: str
    asked: str = ""
    state: State = "ok"
    mend: str = ""


def version() -> str:
    """The version of peaklens.

    >>> version()[0].isdigit()
    True
    """
    try:
        return importlib.metadata.version("peaklens")
    except importlib.metadata.PackageNotFoundError:
        return "(sources that are not installed)"


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="What was found as JSON on standard output.")] = False,
) -> None:
    """Look at versions, devices, caches and disk; say what is missing, and the command that mends it."""
    found = examine()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        from analyses.commands.show_doctor import show_findings

        show_findings(found)
    if not found["ok"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """All that was found; ``ok`` is False where something needed is missing, and what needs it is then left out."""
    findings = [*_python(), *_libraries(), *_extras()] if importlib.util.find_spec("packaging") else _blind()
    found: dict[str, Any] = {"ok": True, "peaklens": version(), "system": platform.platform()}
    if _complete(findings):
        findings += [*_programs(), *_folders(), *_run()]
        found |= {"devices": _devices(), "threads": _threads(), "caches": _caches(), "disk": _disk()}
    return found | {"ok": _complete(findings), "findings": [asdict(finding) for finding in findings]}


def _blind() -> list[Finding]:
    return [Finding("packaging", "", "to compare versions", "missing", _pip(["packaging"]))]


def _complete(findings: Sequence[Finding]) -> bool:
    return not any(finding.state == "missing" for finding in findings)


def _python() -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    try:
        asked = importlib.metadata.metadata("peaklens")["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "peaklens", "", "an installation", "missing", "In the folder of its sources: " + _pip(["-e", "."])
        )
        return
    right = SpecifierSet(asked).contains(platform.python_version(), prereleases=True)
    mend = "" if right else "Make an environment with a newer Python, and install peaklens there."
    yield Finding("Python", platform.python_version(), asked, "ok" if right else "missing", mend)
    if importlib.util.find_spec("pip") is None:
        mend = shlex.join([sys.executable, "-m", "ensurepip"])
        yield Finding("pip", "", "for peaklens models pull", "optional", mend)


def _requirements(extra: str = "") -> list[Any]:
    """What peaklens asks for, without an extra or with it; what an extra of its own asks for is in it."""
    from packaging.requirements import Requirement

    found = []
    for text in importlib.metadata.requires("peaklens") or ():
        asked = Requirement(text)
        chosen = not extra if asked.marker is None else bool(extra) and asked.marker.evaluate({"extra": extra})
        if chosen and asked.name == "peaklens":
            found += [inner for name in sorted(asked.extras) for inner in _requirements(name)]
        elif chosen:
            found.append(asked)
    return list({asked.name: asked for asked in found}.values())


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _fits(asked: Any) -> bool:
    found = _installed(asked.name)
    return bool(found) and asked.specifier.contains(found, prereleases=True)


def _libraries() -> Iterator[Finding]:
    if not _is_installed():
        return
    for asked in _requirements():
        fits = _fits(asked)
        mend = "" if fits else _pip([_bare(asked)])
        yield Finding(asked.name, _installed(asked.name), str(asked.specifier), "ok" if fits else "missing", mend)


def _extras() -> Iterator[Finding]:
    if not _is_installed():
        return
    for extra in importlib.metadata.metadata("peaklens").get_all("Provides-Extra") or ():
        asked = _requirements(extra)
        wanting = [one for one in asked if not _fits(one)]
        found = f"{len(asked) - len(wanting)} of {len(asked)} packages"
        yield Finding(
            f"extra {extra}",
            found,
            ", ".join(map(_bare, wanting)),
            "optional" if wanting else "ok",
            _pip([_bare(one) for one in wanting]) if wanting else "",
        )


def _is_installed() -> bool:
    return bool(_installed("peaklens"))


def _bare(asked: Any) -> str:
    return f"{asked.name}{asked.specifier}"


def _pip(packages: Sequence[str]) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *packages])


def _programs() -> Iterator[Finding]:
    from analyses.views.pictures import NAMES

    named = os.environ.get("PEAKLENS_BROWSER", "")
    browser = next((path for name in (named, *NAMES) if name and (path := shutil.which(name))), "")
    mend = "" if browser else "Install Chromium, or name one in PEAKLENS_BROWSER; only pictures (PNG) need it."
    yield Finding("Chromium", browser, "for pictures", "ok" if browser else "optional", mend)


def _folders() -> Iterator[Finding]:
    from interp.loading.pull import cache_dir

    for what, path in (("cache", cache_dir()), ("working folder", Path.cwd())):
        there = _existing(path)
        if not os.access(there, os.W_OK):
            mend = "Set PEAKLENS_CACHE to another folder." if what == "cache" else "Give --out another folder."
            yield Finding(what, f"{there}, which cannot be written", "", "optional", mend)
        elif shutil.disk_usage(there).free < _DISK:
            yield Finding(what, f"{shutil.disk_usage(there).free / 1e9:.2f} GB free", "1 GB", "optional", "Free some.")


def _run() -> list[Finding]:
    """Whether the bundled toy decodes here, and at what speed."""
    what, asked = "toy-reasoner", f"{_TOKENS} tokens decoded"
    begun = time.perf_counter()
    try:
        from interp import decode, load_model

        model = load_model("toy-reasoner")
        loaded = time.perf_counter()
        tokens = len(decode(model, ["6 A * 3 B - 8 C + 1 ? ->"], max_new_tokens=_TOKENS)[0].tokens)
    except Exception as error:  # whatever a broken installation raises is what has to be told
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return [Finding(what, said[:400], asked, "missing", "Install into a fresh environment.")]
    done = time.perf_counter()
    found = f"loaded in {loaded - begun:.1f} s, {tokens} tokens in {done - loaded:.2f} s on {model.cfg.device}"
    findings = [Finding(what, found, asked)]
    if str(model.cfg.device) == "cpu" and shutil.which("nvidia-smi"):
        mend = "Install the build of torch that fits the driver: https://pytorch.org/get-started/locally"
        findings.append(Finding("CUDA", "nvidia-smi, but no device that torch can use", "", "optional", mend))
    return findings


def _devices() -> list[dict[str, Any]]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    found: list[dict[str, Any]] = [
        {"device": "cpu", "name": platform.processor() or platform.machine(), "memory_bytes": memory.total}
    ]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            found.append({"device": f"cuda:{number}", "name": facts.name, "memory_bytes": facts.total_memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.machine(), "memory_bytes": memory.total})
    return found


def _threads() -> dict[str, Any]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def _caches() -> list[dict[str, Any]]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from interp.loading.pull import cache_dir

    models = cache_dir() / "models"
    names = (
        sorted(path.name for path in models.iterdir() if (path / "config.json").is_file()) if models.is_dir() else []
    )
    return [
        {"what": "pulled models", "path": str(cache_dir()), "bytes": _size(cache_dir()), "models": names},
        {"what": "Hugging Face hub", "path": str(HF_HUB_CACHE), "bytes": _size(Path(HF_HUB_CACHE))},
    ]


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; links count as such, not as what they lead to."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process may be at work there
                total += (Path(root) / name).lstat().st_size
    return total


def _disk() -> list[dict[str, Any]]:
    from interp.loading.pull import cache_dir

    places = dict.fromkeys(_existing(path) for path in (Path.cwd(), cache_dir()))
    return [{"path": str(path), "free_bytes": shutil.disk_usage(path).free} for path in places]


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
