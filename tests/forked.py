"""What runs in processes forked from a warm one (`processes.quick_processes`). Imports next to nothing itself."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Mapping


def script(code: str, argv: list[str], out: str) -> None:
    """Run a script as if it were a program of its own: what it says goes into a file, how it ends is how we end."""
    file = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = argv
    try:
        exec(code, {})
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(int(ended.code or 0))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def kernel(argv: list[str], environment: Mapping[str, str], folder: str) -> None:
    """A kernel of Jupyter's, as ``python -m ipykernel_launcher`` starts one."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for one in filter(None, environment.get("PYTHONWARNINGS", "").split(",")):
        action, _, message = one.partition(":")
        warnings.filterwarnings(action, message=message)  # type: ignore[arg-type]
    sys.argv = argv
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
