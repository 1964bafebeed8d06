r"""TeX that only says how an answer is set: sizes, colours, alignment, tags, old fractions, upright letters.

`unset` takes it away, so that what is left is the formula. `argument` finds matching braces.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["LOOKALIKES", "argument", "unset"]

_FRACTIONS = {sign: unicodedata.normalize("NFKC", sign).replace("⁄", "/") for sign in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}
LOOKALIKES = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width forms
    | {sign: f" {spelled}" for sign, spelled in _FRACTIONS.items()}
    | {
        "−": "-", "–": "-", "‒": "-", "‑": "-", "—": "-", "﹣": "-", "’": "'", "‘": "'", "´": "'", "×": r"\times ",
        "✕": r"\times ", "⨯": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": r"\div ",
        "±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
        "≈": r"\approx ", "≡": r"\equiv ", "∞": r"\infty ", "π": r"\pi ", "𝜋": r"\pi ", "θ": r"\theta ",
        "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\phi ", "ω": r"\omega ",
        "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "°": r"^\circ ", "º": r"^\circ ", "⁄": "/",
        "∕": "/", "℃": r"^\circ C", "℉": r"^\circ F", "⟨": r"\langle ", "⟩": r"\rangle ", "∶": ":", "、": ",",
        "。": ".", "\u00a0": " ", "\u2007": " ", "\u2009": " ", "\u200a": " ", "\u202f": " ", "\u3000": " ",
        "\u200b": None, "\u2060": None, "\ufeff": None,
    }
)  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))

_LETTERS = r"(?![A-Za-z])"
# Commands without an argument that leave no trace
_SWITCHES = re.compile(
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|displaystyle|textstyle|scriptstyle"
    r"|scriptscriptstyle|limits|nolimits|displaylimits|nonumber|notag|hline|centering|boldmath|unboldmath|bfseries"
    r"|itshape|rmfamily|sffamily|ttfamily|mdseries|upshape|normalfont|bf|it|rm|sf|tt|cal|em|mathstrut|strut|null|relax"
    r"|left|right|middle|mathopen|mathclose|mathrel|mathbin|mathord|mathpunct|mathinner|[bB]igg?[lrm]?|protect|noindent"
    rf"|allowbreak|nobreak|break){_LETTERS}"
)
_SPACES = re.compile(
    rf"\\(?:quad|qquad|enspace|enskip|thinspace|medspace|thickspace|negthinspace|space|nobreakspace|hfill|hfil|newline"
    rf"|par|smallskip|medskip|bigskip){_LETTERS}|(?<!\\)(?:\\[,;:> ]|~)"
)
# Commands whose arguments, so many, are dropped, and those that leave their last argument
_DROPPED = re.compile(
    r"\\(?P<name>tag\*?|label|vphantom|hphantom|phantom|hspace\*?|vspace\*?|color|pagecolor|fontsize|selectfont|rule"
    rf"|kern|mskip|hskip|ref|eqref|cite|require|[bx]?cancel|sout){_LETTERS}"
)
_ARGUMENTS = {"fontsize": 2, "rule": 2, "selectfont": 0}
_LENGTH = re.compile(r"\s*=?\s*-?[0-9.]+\s?(?:pt|em|ex|mu|cm|mm|in|px)")
_KEPT = {
    "textcolor": 2, "colorbox": 2, "fcolorbox": 3, "bbox": 1, "underline": 1, "underbrace": 1, "overbrace": 1,
    "mathop": 1, "mathstrut": 0, "ensuremath": 1, "boxed": 1, "fbox": 1, "framebox": 1, "Boxed": 1, "scalebox": 2,
    "resizebox": 3, "raisebox": 2, "smash": 1, "mathclap": 1, "mathllap": 1, "mathrlap": 1, "num": 1, "uline": 1,
    "emph": 1, "textup": 1, "textmd": 1, "underset": 2, "href": 2, "style": 2, "class": 2, "cssId": 2,
}  # fmt: skip
_OPTIONAL = frozenset(("framebox", "bbox", "color", "textcolor", "colorbox", "raisebox", "smash", "num"))
_OPTION = re.compile(r"(?:\s*\[[^\[\]]*\]){1,2}")
_KEEPING = re.compile(rf"\\(?P<name>{'|'.join(sorted(_KEPT, key=len, reverse=True))}){_LETTERS}")
_TEXT = r"\\(?:text|mathrm|mbox)\s?\{([A-Za-z ]+)\}"
_RENAMED = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\\(?:[dtc]frac|sfrac|nicefrac|flatfrac|xfrac){_LETTERS}", r"\\frac"),
        (rf"\\[dt]binom{_LETTERS}", r"\\binom"),
        (rf"\\lparen{_LETTERS}", "("),
        (rf"\\rparen{_LETTERS}", ")"),
        (rf"\\lbrack{_LETTERS}", "["),
        (rf"\\rbrack{_LETTERS}", "]"),
        (rf"\\lbrace{_LETTERS}", r"\\{"),
        (rf"\\rbrace{_LETTERS}", r"\\}"),
        (rf"\\[lr]?vert{_LETTERS}", "|"),
        (rf"\\(?:leqslant|leqq){_LETTERS}", r"\\le"),
        (rf"\\(?:geqslant|geqq){_LETTERS}", r"\\ge"),
        (rf"\\(?:dots[cbmio]|dotsc){_LETTERS}", r"\\dots"),
        (rf"\\(?:ast|star){_LETTERS}", "*"),
        (rf"\\(?:textminus|minus){_LETTERS}", "-"),
        (rf"\\(?:textdollar|dollar){_LETTERS}", "$"),
        (rf"\\(?:pounds|textsterling){_LETTERS}", "£"),
        (rf"\\(?:euro|texteuro|EUR){_LETTERS}", "€"),
        (rf"\\(?:textdegree|degree){_LETTERS}", r"^\\circ "),
        (rf"\\(?:textpercent|percent){_LETTERS}", "%"),
        (rf"\\colon{_LETTERS}", ":"),
        (rf"\\(?:dotfill|ldotp|cdotp){_LETTERS}", " "),
        (
            r"(?<![A-Za-z0-9)}])(?:\{\s*\})?(?:\^\s?\{?([0-9]{1,4})\}?|_\s?\{?([0-9]{1,4})\}?)\s?(?:C|\\mathrm\{C\})\s?_\s?\{?([0-9]{1,4})\}?",
            lambda found: rf"\binom{{{found[1] or found[2]}}}{{{found[3]}}}",
        ),
        (rf"\\varnothing{_LETTERS}", r"\\emptyset"),
        (
            rf"\\frac\s?\{{\s*{_TEXT}\s*\}}\s?\{{\s*{_TEXT}(?:\^\{{?([0-9])\}}?)?\s*\}}",
            lambda found: rf"\text{{ {found[1].strip()}/{found[2].strip()}{'^' + found[3] if found[3] else ''}}}",
        ),
        (rf"\\(?:imath|jmath){_LETTERS}", lambda found: found[0][1]),
        (r"\\ang\s?\{([^{}]*)\}", r"\1^\\circ "),
        (r"\\(?:SI|qty)\s?\{([^{}]*)\}\s?\{([^{}]*)\}", lambda found: found[1] + r"\text{ " + _unit(found[2]) + "}"),
        (r"\\(?:unit|si)\s?\{([^{}]*)\}", lambda found: r"\text{ " + _unit(found[1]) + "}"),
    )
)
_ALIGNED = re.compile(
    r"\\(?P<edge>begin|end)\s*\{\s*(?:aligned|align|alignat|alignedat|gather|gathered|split|multline|equation|eqnarray"
    r"|displaymath|math|center|flushleft|flushright|large|small)\*?\s*\}(?:\[[^\]]*\]|\{[0-9]\})?"
)
_ARRAY = re.compile(
    r"(?P<open>\\\{|[(\[|])?\s*\\begin\s*\{\s*(?:array|tabular)\s*\}\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}"
    r"(?P<body>(?:(?!\\begin).)*?)\\end\s*\{\s*(?:array|tabular)\s*\}\s*(?P<close>\\\}|[)\]|.])?",
    re.DOTALL,
)
_MATRIX = {"(": "pmatrix", "[": "bmatrix", "|": "vmatrix", r"\{": "cases"}
_UPRIGHT = re.compile(
    r"\\(?:math(?:rm|bf|it|sf|tt|normal|bfit|up)|bm|boldsymbol|pmb|symbf|symup|symit|mathbold|text(?:bf|it|rm|sf|tt|normal"
    r"|sl|sc|up|md)?|[mh]box|operatorname\*?)\s?\{\s?(?P<inside>[A-Za-z]|[-+]?[0-9][0-9.,]*|\\[A-Za-z]+|[-+=,.])\s?\}"
)


def unset(text: str) -> str:
    r"""`text` without TeX that only sets it.

    >>> unset(r"{\color{red}9 \tag{1}}").strip(), unset(r"{10 \choose 3}"), unset("1 \\over 2")
    ('{9 }', '{\\binom{10}{3}}', '{\\frac{1}{2}}')
    >>> unset(r"\left( \begin{array}{c} 1 \\[1ex] 2 \end{array} \right)"), unset(r"6 - 5\mathrm{i}")
    ('\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}', '6 - 5i')
    """
    text = _scripts(text, _RAISED, "^")
    text = _scripts(text, _LOWERED, "_").translate(LOOKALIKES)
    if "\\" not in text and "~" not in text and "C_" not in text:
        return text
    # The second backslash of a row break belongs to no command, and what it says of the space is dropped
    text = re.sub(r"\\\\\s*\*?\s*\[\s*-?[0-9.]+\s*[a-z]{2}\s*\]\s*", r"\\\\ ", text)
    text = re.sub(r"(?<!\\)\\(?:left|right)\s*\.(?![0-9])", "", text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    text = _without_arguments(text)
    text = _SWITCHES.sub(
        lambda found: "" if found[0].startswith((r"\left", r"\right", r"\big", r"\Big")) else " ", text
    )
    text = _SPACES.sub(" ", text)
    text = _ALIGNED.sub(" ", text)
    text = _ARRAY.sub(_matrix, text)
    if "&" in text and not re.search(r"\\begin", text):
        text = text.replace("&", "")
    for _ in range(3):
        text = _UPRIGHT.sub(_single, text)
    return _infix(text)


def _single(found: re.Match[str]) -> str:
    letter = found["inside"]
    # A capital in text is a choice or a name; upright i, e, d and numbers are what they are in italics
    if found[0].startswith((r"\text", r"\mbox", r"\hbox")) and letter.isalpha() and letter not in "ie":
        return found[0]
    return letter


def _unit(text: str) -> str:
    named = re.sub(r"\\per(?![A-Za-z])", " per ", text)
    named = re.sub(r"\\(squared?|cubed?|cubic)(?![A-Za-z])", r" \1 ", named)
    prefix = r"\\(milli|centi|kilo|deci|micro|mega)\s*\\?"
    return re.sub(r"\s+", " ", re.sub(prefix, r" \1", named).replace("\\", " ").replace(".", " ")).strip()


def _scripts(text: str, signs: dict[str, str], mark: str) -> str:
    def ordinary(found: re.Match[str]) -> str:
        plain = "".join(signs[sign] for sign in found[0])
        return mark + (plain if len(plain) == 1 else f"{{{plain}}}")

    return re.sub(f"[{''.join(signs)}]+", ordinary, text)


def _matrix(found: re.Match[str]) -> str:
    kind = _MATRIX.get(found["open"] or "", "matrix")
    body = " " + found["body"].strip() + " "
    if kind == "matrix":
        return f"{found['open'] or ''}\\begin{{matrix}}{body}\\end{{matrix}}{found['close'] or ''}"
    return f"\\begin{{{kind}}}{body}\\end{{{kind}}}"


def argument(text: str, start: int, longest: int = 2000) -> tuple[int, int, int] | None:
    r"""Where the argument of a command at `start` begins and ends, and where what follows it begins; None without one.

    >>> argument(r"\fbox{a{b}} c", 5), argument(r"\frac34", 5), argument(r"\sqrt\pi", 5), argument(r"\fbox{a", 5)
    ((6, 10, 11), (5, 6, 6), (5, 8, 8), None)
    """
    while start < len(text) and text[start] in " \n\t":
        start += 1
    if start >= len(text):
        return None
    if text[start] != "{":
        command = re.compile(r"\\(?:[A-Za-z]+|.)").match(text, start)
        end = command.end() if command else start + 1
        return (start, end, end) if text[start] not in "}&$" else None
    depth = 0
    # An escaped brace is a sign of the formula, and the second backslash of a row break escapes nothing
    for brace in _BRACE.finditer(text, start, start + longest):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return start + 1, brace.start(), brace.end()
    return None


_BRACE = re.compile(r"\\[\\{}]|[{}]")


def _without_arguments(text: str) -> str:
    """Without the commands of `_DROPPED` and their arguments, and with the last argument alone of those of `_KEPT`."""
    for _ in range(40):
        dropped, kept = _DROPPED.search(text), _KEEPING.search(text)
        first = min((m for m in (dropped, kept) if m is not None), key=lambda m: m.start(), default=None)
        if first is None:
            break
        end, inside = first.end(), ""
        count = _ARGUMENTS.get(first["name"], 1) if first is dropped else _KEPT[first["name"]]
        if first["name"] in _OPTIONAL and (optional := _OPTION.match(text, end)) is not None:
            end = optional.end()
        length = _LENGTH.match(text, end) if first["name"] in ("kern", "mskip", "hskip", "hspace") else None
        if length is not None:
            end, count = length.end(), 0
        for _ in range(count):
            found = argument(text, end)
            if found is None:
                break
            inside, end = text[found[0] : found[1]], found[2]
        # What stood in the command's braces stays a group: \textcolor{red}{1}2 is not a power
        text = text[: first.start()] + ("" if first is dropped else f"{{{inside}}}" if inside else " ") + text[end:]
    return text


_INFIX = re.compile(rf"\\(over|atop|choose){_LETTERS}")


def _infix(text: str) -> str:
    r"""``{a \over b}`` as ``\frac{a}{b}``, and ``{a \choose b}`` as ``\binom{a}{b}``."""
    for _ in range(8):
        found = _INFIX.search(text)
        if found is None:
            break
        start, end = _group(text, found.start())
        name = "binom" if found[1] == "choose" else "frac"
        sides = text[start : found.start()], text[found.end() : end]
        grouped = start > 0 and end < len(text) and text[start - 1] == "{" and text[end] == "}"
        outer = (start - 1, end + 1) if grouped else (start, end)
        text = f"{text[: outer[0]]}{{\\{name}{{{sides[0].strip()}}}{{{sides[1].strip()}}}}}{text[outer[1] :]}"
    return text


def _group(text: str, place: int) -> tuple[int, int]:
    """What the innermost braces, dollars or signs of equality around `place` hold; all of `text` without any."""
    edges = []
    for step, opening in ((-1, "}"), (1, "{")):
        closing = "{" if step < 0 else "}"
        depth, at = 0, place
        while 0 <= at < len(text):
            sign = text[at] if not (at > 0 and text[at - 1] == "\\") else ""
            if sign == opening:
                depth += 1
            elif sign == closing:
                depth -= 1
                if depth < 0:
                    break
            elif sign in ("$", "=") and depth == 0:
                break
            at += step
        edges.append(at)
    return edges[0] + 1, edges[1]
