r"""One spelling of what can be written in several ways: signs, spacing, LaTeX commands for text, dollars."""

from __future__ import annotations

import re

__all__ = ["WINDOW", "bare", "clean", "is_name", "spelling"]

WINDOW = 300  # characters looked at after a marker, or around a last number; no number is longer
_LOOKALIKES = str.maketrans(
    {
        "−": "-", "–": "-", "‒": "-", "‑": "-", "，": ",", "％": "%", "＄": "$", "（": "(", "）": ")", "’": "'",
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "∪": r"\cup ", "∩": r"\cap ",
        "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "²": "^2", "³": "^3", "½": " 1/2", "¼": " 1/4", "¾": " 3/4",
        "⅓": " 1/3", "⅔": " 2/3", "⁄": "/", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
    }
)  # fmt: skip


def _ungroup(braces: re.Match[str]) -> str:
    r"""Drops braces that only group, as in ``= {18}``; those of a command, a power or ``\{`` stay."""
    return braces[0] if braces[1] else braces[2]


_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"√\s?\(([^()]{1,40})\)", r"\\sqrt{\1}"),
        (r"√\s?([0-9]{1,40}|[a-z])", r"\\sqrt{\1}"),
        (r"(?<=[0-9])(?:\{,\}|,?\\!|\\[,;: ])\s*(?=[0-9]{3}(?![0-9]))", ","),  # 10{,}080, 11,\! 111, 10\,080
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[()\[\]]", "$"),
        (r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])(?:\s*\.(?![0-9]))?", ""),
        (r"\\(?:displaystyle|textstyle|limits|quad|qquad|hspace\*?\{[^{}]*\})(?![A-Za-z])|(?<!\\)(?:\\[,;: ]|~)", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:[mh]box|math(?:rm|bf|it|sf)|bm|boldsymbol|text(?:bf|it|rm|sf|normal))(?![A-Za-z])", r"\\text"),
        (r"\\degree(?![A-Za-z])|\^\s?(?:\{\s?\\circ\s?\}|\\circ)\s?", r"^\\circ "),
        (r"\\approx(?![A-Za-z])", "="),
        (r"\\?%", "%"),
        (
            r"(\\(?:frac|sqrt|text|binom|overline|bar|vec|hat|math[a-z]+|begin|end|pmod|boxed)\s?|[\^_]\s?|\\)?"
            r"(?<![}\]])\{((?:[^{}\\]|\\[^{}]|\{[^{}]*\})*)\}",
            _ungroup,
        ),
        (r"\s+", " "),
    )
)  # fmt: skip
_WRAPPED = re.compile(r"\$\$?([^$]+)\$\$?|(?:\\(?:text|boxed)\s?)?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")


def clean(text: str) -> str:
    """The same answer in one spelling: signs, spacing and text commands, and nothing around it."""
    text = text.translate(_LOOKALIKES)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for _ in range(8):
        text = re.sub(r"^(?:approximately|about)(?![A-Za-z])", "", text.strip(' *`"='))
        text = re.sub(r"(?:[\s.,:;]|(?<!\\)\\\\)+$", "", text).strip()
        wrapped = _WRAPPED.fullmatch(text)
        if wrapped is None:
            break
        text = wrapped[1] or wrapped[2] or ""
    if len(re.findall(r"(?<!\\)\$", text)) > 1:  # they delimit formulas; a single one is money
        text = re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(" +", " ", text.replace(r"\$", "$")).strip()


def bare(cleaned: str) -> str:
    r"""Without ``\text{}``, keeping what is inside."""
    return re.sub(" +", " ", re.sub(r"\\text\s?\{([^{}]*)\}", r" \1 ", cleaned)).strip()


def is_name(text: str, words: int = 20) -> bool:
    """Whether `text` is one to `words` plain words."""
    return 0 < len(text.split()) <= words and re.fullmatch(r"[A-Za-z][A-Za-z' -]*", text) is not None


def spelling(cleaned: str) -> str:
    """One spelling of a formula or of words: no needless spaces, no case in words of more than a letter."""
    text = bare(cleaned).replace("$", "")
    text = re.sub(r" (?![A-Za-z0-9])|(?<![A-Za-z0-9]) |(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", "", text)
    return text.casefold() if len(text) > 1 and is_name(bare(cleaned)) else text
