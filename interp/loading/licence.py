"""Under which licence a model or a data set is, as far as the files beside it say: a note, no legal advice.

1. `card_licence` reads what a folder says: the front matter of its ``README.md`` (the card of a model or a data set),
   ``license`` in its ``dataset_info.json`` or ``config.json``, or what ``peaklens models pull`` noted.
2. `model_licence` looks where a loaded model came from: at its card, or the metadata of its GGUF file.

What is found is text of others: one line, cut to 120 characters. Where nothing is stated the answer is ``None``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["card_licence", "model_licence"]

_LONGEST = 120
_MOST = 1 << 20  # bytes of a card that are read
_FILES = {"dataset_info.json": "license", "config.json": "license", "source.json": "licence"}


def card_licence(folder: Path) -> str | None:
    """The licence that a folder states.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as text:
    ...     _ = Path(text, "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# A model")
    ...     card_licence(Path(text)), card_licence(Path(text, "elsewhere"))
    ('apache-2.0', None)
    """
    if (stated := _stated(_front_matter(folder / "README.md"))) is not None:
        return stated
    for name, key in _FILES.items():
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and (stated := _line(content.get(key))) is not None:
            return stated
    return None


def model_licence(kind: str, path: Path | None) -> str | None:
    """The licence that a model's files state, by what :func:`interp.loading.models.model_source` says of it.

    >>> model_licence("bundled", None), model_licence("object", None)
    ('MIT', None)
    """
    if kind == "bundled":
        return "MIT"
    if path is None:
        return None
    if kind == "gguf":
        from interp.loading.gguf import gguf_metadata

        return _line(gguf_metadata(path).licence)
    return card_licence(path)


def _front_matter(card: Path) -> Mapping[str, Any]:
    """What stands between the two lines of dashes at the head of a card."""
    import yaml

    try:
        with card.open(encoding="utf-8") as lines:
            text = lines.read(_MOST)
    except (OSError, ValueError):
        return {}
    head, _, rest = text.partition("\n")
    block, ends, _ = rest.partition("\n---")
    if head.strip() != "---" or not ends:
        return {}
    try:
        found = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError):  # a card that is not as it should be states nothing
        return {}
    return found if isinstance(found, dict) else {}


def _stated(card: Mapping[str, Any]) -> str | None:
    """The hub's way of saying it: a licence of its own has a name beside ``license: other``."""
    licence, named = _line(card.get("license")), _line(card.get("license_name"))
    return named if named and licence in (None, "other") else licence


def _line(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        value = ", ".join(str(one) for one in value)
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text[:_LONGEST] or None
