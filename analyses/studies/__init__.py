"""Studies: a question asked of many responses, one file each; ``peaklens study NAME`` runs one.

- :mod:`trajectories`  how MI moves along a response, and its peaks
- :mod:`compare`       a reasoning model against its origin, paired
- :mod:`tokens`        which tokens are at peaks, and what peak residuals decode to
- :mod:`suppress`      accuracy without N thinking words, against matched controls
- :mod:`recycle`       representation recycling over layers, gates, probabilities, repeats
- :mod:`scale`         accuracy against the token budget
- :mod:`ablate`        answer log-probability with residuals at peaks replaced
- :mod:`correctness`   peaks and nHSIC against being right
- :mod:`information`   bits about the answer by layer and place, beside nHSIC
- :mod:`bounds`        what errors the information allows (Theorems 1 and 2)
- :mod:`overlap`       peaks against deep tokens, entropy, thinking tokens, other measures

:mod:`base` is what they share, :mod:`run` runs them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.studies.base import Study

__all__ = ["STUDIES", "find_study", "make_study"]

STUDIES = (
    "trajectories", "compare", "tokens", "suppress", "recycle", "scale", "ablate", "correctness", "information",
    "bounds", "overlap",
)  # fmt: skip


def find_study(name: str) -> type[Study]:
    """The class of a study: by its name, or the one in a Python file of your own.

    >>> find_study("suppress").title
    'Accuracy without thinking words'
    """
    from analyses.studies.base import Study

    if name.endswith(".py"):
        file = Path(name).resolve()
        if not file.is_file():
            raise InputError("find study", expected="a Python file", received=name, remedy="Check the path.")
        sys.path.insert(0, str(file.parent))  # worker processes import it by its name too
        module = importlib.import_module(file.stem)
    elif name in STUDIES:
        module = importlib.import_module(f"analyses.studies.{name}")
    else:
        raise InputError(
            "find study",
            expected=f"one of {', '.join(STUDIES)}, or a .py file with a study of your own",
            received=repr(name),
            remedy="Check the spelling.",
        )
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Study) and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise InputError(
            "find study",
            expected=f"one subclass of Study in {name}",
            received=", ".join(kind.__name__ for kind in own) or "none",
            remedy="Put each study into a file of its own.",
        )
    return own[0]


def make_study(name: str, options: Mapping[str, str]) -> Study:
    """A study with options given as text.

    >>> make_study("suppress", {"draws": "2", "counts": "1,5"}).counts
    (1, 5)
    """
    kind = find_study(name)
    known = {item.name: item for item in fields(kind)}
    given: dict[str, Any] = {}
    for option, text in options.items():
        try:
            default = getattr(kind(), option)
            given[option] = _parse(text, default)
        except (AttributeError, KeyError, ValueError):
            raise InputError(
                f"study {name}",
                expected=f"options among {', '.join(known) or 'none'}, each like its default",
                received=f"{option}={text!r}",
                remedy="Several values are separated by commas.",
            ) from None
    return kind(**given)


def _parse(text: str, default: Any) -> Any:
    """``text`` as a value of the kind of ``default``; what begins as an empty tuple holds words."""
    if isinstance(default, bool):
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    if isinstance(default, tuple):
        kind = type(default[0]) if default else str
        return tuple(kind(part) for part in text.split(",") if part)
    return type(default)(text)
