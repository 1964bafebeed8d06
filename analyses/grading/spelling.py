r"""One spelling of what can be written in several ways: signs, spacing, LaTeX commands for text, dollars."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from analyses.grading.tex import unset

__all__ = ["WINDOW", "bare", "clean", "is_name", "spelling"]

WINDOW = 300  # characters looked at after a marker, or around a last number; no prose number is longer


def _ungroup(braces: re.Match[str]) -> str:
    r"""Drops braces that only group, as in ``= {18}``; those of a command, a power or ``\{`` stay."""
    return braces[0] if braces[1] else braces[2]


_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"√\s?\(([^()]{1,40})\)", r"\\sqrt{\1}"),
        (r"√\s?([0-9]{1,40}|[a-z])", r"\\sqrt{\1}"),
        (r"\\text\s?\{\s*\$([^${}]*)\$\s*\}", r" \1 "),  # a formula in a text is a formula
        (r"\\text\s?\{\s?([,;])\s?(and|or)?\s?\}", r"\1 "),
        (r"(?<=[0-9])(?:\{,\}|,?\\!)\s*(?=[0-9]{3}(?![0-9]))", ","),  # 10{,}080 and 11,\! 111
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\[()\[\]]", "$"),
        (r"\\(?:[mh]box|math(?:rm|bf|it|sf|tt|normal)|bm|boldsymbol|text(?:bf|it|rm|sf|tt|sc|sl|up|normal))(?![A-Za-z])",
         r"\\text"),
        (r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)\s?|(?<=[0-9])\s?\^\s?\{?\s?o\s?\}?(?![A-Za-z0-9])", r"^\\circ "),
        (r"\\(?:approx|simeq)(?![A-Za-z])", "="),
        (r"\\langle(?![A-Za-z])\s?", "("),
        (r"\s?\\rangle(?![A-Za-z])", ")"),
        (r"\\?%", "%"),
        (r"(?<=[0-9])/-(?=\s|$)", ""),  # Rs. 18/-
        (
            r"(\\(?:frac|sqrt(?:\s?\[[^\[\]]*\])?|text|binom|overline|bar|vec|hat|math[a-z]+|begin|end|pmod|boxed"
            r"|operatorname)\s?|[\^_]\s?|\\)?"
            r"(?<![}\]])\{((?:[^{}\\]|\\[^{}]|\{[^{}]*\})*)\}",
            _ungroup,
        ),
        (r"\s+", " "),
    )
)  # fmt: skip
_HEDGES = re.compile(
    r"^(?:(?:approximately|about|roughly|exactly|only|just|around|nearly|almost|circa)(?![A-Za-z])"
    r"|(?:approx\.?|ca\.|[Nn]os?\.|[Nn]umber)(?=\s?\$?[0-9]))"
)
_NAMED = re.compile(
    r"^(?:\\text\s?\{\s?)?(?:the\s)?(?:final\s)?(?:answer|result|total)\s?(?:is|:|=)\s*(?:\}\s?(?=.)|(?=[^}]*$)|(?=[^{}]*\}$))",
    re.IGNORECASE,
)
# 0.\bar{3}, 0.(3) and 0.333...
_REPEATED = re.compile(
    r"(?<![0-9.])([0-9]{1,20}\.[0-9]{0,20}?)(?:(?:\\(?:bar|dot|overline)\s?\{|\()(?P<inside>[0-9]{1,20})[)}]"
    r"|([0-9]{1,6}?)\3{2,}(?:\.\.\.|…|\\[lc]?dots(?![A-Za-z])))(?![0-9])"
)
_THIN = re.compile(r"(?<=[0-9])\\[,;: ]\s*(?=[0-9]{3}(?![0-9]))")  # 10\,080
_WRAPPED = re.compile(r"\$\$?([^$]+)\$\$?|(?:\\(?:text|boxed)\s?)?\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """The same answer in one spelling: signs, spacing and text commands, and nothing around it."""
    text = _REPEATED.sub(lambda found: rf"{found[1]}\overline{{{found[2] or found[3]}}}", unset(_THIN.sub(",", text)))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for _ in range(8):
        text = _NAMED.sub("", text)
        text = _HEDGES.sub("", text.strip(' *`"“”=_'))
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
    return 0 < len(text.split()) <= words and re.fullmatch(r"[^\W\d_](?:[^\W\d_]|[' -]|\.(?=\s))*", text) is not None


def spelling(cleaned: str) -> str:
    """One spelling of a formula or of words: no needless spaces, no case or article in words of more than a letter."""
    words = bare(cleaned)
    text = words.replace("$", "")
    text = re.sub(r" (?![A-Za-z0-9])|(?<![A-Za-z0-9]) |(?<=[0-9]) (?=[A-Za-z])|(?<=[A-Za-z]) (?=[0-9])", "", text)
    if len(text) <= 1 or not is_name(words):
        return text
    words = unicodedata.normalize("NFC", words).casefold().replace("-", " ")
    return re.sub(r"^(?:the|an|a) (?=\S)|\.", "", " ".join(words.split()))
