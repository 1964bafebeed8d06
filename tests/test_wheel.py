"""Installed elsewhere it is whole, with one name for all of it: as a wheel, which traces the toy, and editable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN: dict[str, Any] = {"check": True, "capture_output": True, "text": True}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
# With the setuptools that is here (extra `dev`), instead of an environment made for each build.
HERE = ("--no-build-isolation", "--no-deps")
PACKAGES = ("interp", "probes", "analyses", "peaklens")
# Where the packages of a folder are found by a Python that knows of no other, and that their one name works.
LOOK = """
import importlib.util, json, os, site, sys
site.addsitedir(sys.argv[1])
import peaklens
assert peaklens.InputError.__module__ == "peaklens" and peaklens.__version__
found = {name: os.path.dirname(importlib.util.find_spec(name).origin) for name in sys.argv[2:]}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has: no left-over build folder can lend the wheel a file."""
    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, **RUN).stdout.split("\0")
    for name in filter(None, listed):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    return folder


def found_in(site: Path, cwd: Path) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-S", "-P", "-c", LOOK, str(site), *PACKAGES], cwd=cwd, env=bare, **RUN)
    return json.loads(done.stdout)


def test_the_wheel_traces_the_toy_from_elsewhere(tmp_path: Path, source: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    subprocess.run([*PIP, "wheel", *HERE, "-w", str(wheels), str(source)], **RUN)
    (wheel,) = wheels.glob("peaklens-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--no-compile", "--target", str(site), str(wheel)], **RUN)
    assert found_in(site, tmp_path) == {name: str(site / name) for name in PACKAGES}
    assert (site / "peaklens" / "py.typed").is_file()
    assert not (site / "analyses" / "facade").exists(), "it would be there twice"
    # Nothing is compiled in a folder that is thrown away.
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1", "NUMBA_DISABLE_JIT": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import interp; print(interp.__file__)"], cwd=tmp_path, env=environment, **RUN
    )
    assert where.stdout.startswith(str(site)), "this is not the wheel's package"
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "peaklens"), "trace", "--n", "2", "--max-new-tokens", "20", "--out", "r"],
        cwd=tmp_path,
        env=environment,
        **RUN,
    )
    assert "toy-reasoner: 2 responses" in done.stdout
    assert (tmp_path / "r" / "mi.parquet").is_file()


def test_an_editable_install_finds_what_is_in_the_checkout(tmp_path: Path, source: Path) -> None:
    site = tmp_path / "site"
    subprocess.run([*PIP, "install", *HERE, "--target", str(site), "--editable", str(source)], **RUN)
    rooms = {"peaklens": source / "analyses" / "facade" / "peaklens"}
    assert found_in(site, tmp_path) == {name: str(rooms.get(name, source / name)) for name in PACKAGES}
