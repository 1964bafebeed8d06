"""The wheel, installed elsewhere, is whole: it traces the bundled toy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_wheel_traces_the_toy_from_elsewhere(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    run = {"check": True, "capture_output": True, "text": True}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheels = tmp_path / "wheels"
    # A copy of what git has: no left-over build folder can lend the wheel a file.
    source = tmp_path / "source"
    source.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, **run).stdout.split("\0")
    for name in filter(None, listed):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(source)], **run)
    (wheel,) = wheels.glob("peaklens-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], **run)
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import interp; print(interp.__file__)"], cwd=tmp_path, env=environment, **run
    )
    assert where.stdout.startswith(str(site)), "this is not the wheel's package"
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "peaklens"), "trace", "--n", "2", "--max-new-tokens", "20", "--out", "r"],
        cwd=tmp_path,
        env=environment,
        **run,
    )
    assert "toy-reasoner: 2 responses" in done.stdout
    assert (tmp_path / "r" / "mi.parquet").is_file()
