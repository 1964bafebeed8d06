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
- :mod:`receivers`     accuracy and repairs without the heads whose attention narrows on thinking
- :mod:`overlap`       peaks against deep tokens, entropy, thinking tokens, other measures
- :mod:`attribute`     which heads, MLPs and embeddings write peaks, and classes of tokens

They share :mod:`base` (study, condition, result), :mod:`setup` and :mod:`lab` (what options are checked against and
conditions decoded in) and :mod:`options`; :mod:`run` runs them: :mod:`plan`, :mod:`baselines`, :mod:`spec`,
:mod:`calibration`, :mod:`kept`. A question asked of one response at a time belongs to a trace, a figure to
:mod:`analyses.views`, a test or an interval to :mod:`analyses.stats`: none of these live here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.studies.base import Study

__all__ = ["STUDIES", "find_study", "make_study"]

STUDIES = (
    "trajectories", "compare", "tokens", "suppress", "recycle", "scale", "ablate", "correctness", "information",
    "bounds", "overlap", "receivers", "attribute",
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
    _check_kind(own[0])
    return own[0]


def _check_kind(kind: type[Study]) -> None:
    """Refuse a class that could not be run as a study."""
    from analyses.studies.base import Study

    unnamed = [name for name in ("name", "title", "source") if not isinstance(getattr(kind, name, None), str)]
    options = [item for item in fields(kind) if item.name not in {base.name for base in fields(Study)}]
    taken = [item.name for item in options if item.name in dir(Study) or item.name in ("name", "title", "source")]
    bare = [item.name for item in options if item.default is MISSING and item.default_factory is MISSING]
    left = list(getattr(kind, "__abstractmethods__", ()))
    for wrong, expected, remedy in (
        (unnamed, "texts for name, title and source", "Set them as class attributes, annotated as ClassVar[str]."),
        (taken, "options of other names than the methods and texts of Study", "Rename them."),
        (bare, "a default for each option", "Its kind tells how the option is read."),
        (left, "methods tables, figures and reading", "Write them."),
        (
            ["no decorator"] if "__dataclass_fields__" not in vars(kind) else [],
            "a dataclass",
            "Put @dataclass(frozen=True) above it.",
        ),
    ):
        if wrong:
            raise InputError(
                f"find study {kind.__name__}", expected=expected, received=", ".join(sorted(wrong)), remedy=remedy
            )


def make_study(name: str, options: Mapping[str, str]) -> Study:
    """A study with options given as text.

    >>> make_study("suppress", {"draws": "2", "counts": "1,5"}).counts
    (1, 5)
    """
    from analyses.studies.options import parse_option

    kind = find_study(name)
    known = {item.name: item for item in fields(kind) if item.init}
    given: dict[str, Any] = {}
    for option, text in options.items():
        if option not in known:
            raise InputError(
                f"study {kind.name}",
                expected=f"options among {', '.join(known) or 'none'}",
                received=f"{option}={text!r}",
                remedy="Several values are separated by commas.",
            )
        given[option] = parse_option(kind.name, known[option], text)
    return kind(**given)
