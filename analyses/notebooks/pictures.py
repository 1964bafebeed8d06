"""The pictures that the README shows: ``python -m analyses.notebooks.pictures``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analyses.notebooks.build import build
from analyses.report import write_report
from analyses.trace import trace
from analyses.views.pictures import screenshot

__all__ = ["main"]

WIDTH, HEIGHT = 1300, 750  # of the first screen: what the report opens on, down to the list of peaks


def main(arguments: Sequence[str] | None = None) -> None:
    """The first screen of the report of a small trace, and the first notebook, as the README shows them."""
    parser = argparse.ArgumentParser(prog="python -m analyses.notebooks.pictures", description=(__doc__ or "").strip())
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peaklens-") as folder:
        run = trace("toy-reasoner", n=64, out=Path(folder) / "demo", max_new_tokens=160, batch_size=16)
        page = write_report([run], Path(folder) / "report.html")
        screenshot(page, options.out / "report.png", width=WIDTH, height=HEIGHT)
        made = next(iter(build(Path(folder), ["watch_a_model_think"])))
        screenshot(made.html, options.out / "notebook.png", height=1300)


if __name__ == "__main__":
    main()
