r"""The algebra of grading, in a process of its own: it may hang or run out of memory, and is killed for it.

`python -m analyses.grading.algebra SECONDS` reads one JSON object a line, ``{"gold": ..., "answer": ...}``, both LaTeX,
and writes one, ``{"verdict": "same" | "different" | "gold" | "error", "detail": ...}``; `gold` means that the gold
formula could not be read, and an empty answer asks for nothing but that. It imports math-verify and the standard
library, nothing else.

Formulas come from a model, so nothing of them may run as Python:

1. `is_formula` (`analyses.grading.formula`) lets known LaTeX commands, single letters, numbers and plain words through,
   nothing else.
2. latex2sympy reads with a grammar (ANTLR), but makes its numbers with `sympify`, which is `eval`; `_no_eval` puts a
   reader of numbers and names in the place of SymPy's. math-verify's reader of plain expressions is `eval` too: unused.
3. Should a way be left, an audit hook refuses processes, sockets, files to write and generated functions.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import signal
import sys
from typing import Any

from analyses.grading.formula import is_formula

__all__ = ["serve", "verdict"]

_ROUNDED = 6  # places from which on a decimal may stand for a number near it, as in math-verify
_MEMORY = 2 << 30  # bytes of address space: 10^{10^{10}} must not take the machine with it


def verdict(gold: str, answer: str) -> tuple[str, str]:
    r"""What math-verify says of two formulas, and why it says nothing where it does not.

    >>> verdict(r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}")
    ('same', '')
    >>> verdict("3", r"\frac{1}{")
    ('different', 'the answer is not a formula')
    """
    from math_verify import verify

    given = None
    try:
        expected = _read(gold)
        if not answer:
            return "different", "there is no answer"
        try:
            given = _read(answer)
        except MemoryError:
            raise
        except Exception:  # latex2sympy raises nothing more special
            return "different", "the answer is not a formula"
        same = verify([expected], [given], timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True)
    except MemoryError:
        return "error", "out of memory"
    except Exception as error:  # the same, and whatever SymPy comes upon
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return ("gold" if given is None else "error"), said
    return ("same" if same else "different"), ""


def _read(latex: str) -> Any:
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify.grader import should_treat_as_complex

    if not is_formula(latex):
        raise ValueError("not a formula")
    # units=False: as units it takes any t, h, s, c, l, d, g, m away, so that 3t were 3
    tidy = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    latex = normalize_latex(latex, tidy)
    return _with_unit(
        latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),  # r is not R
        )
    )


def _with_unit(read: Any) -> Any:
    """What was read with the imaginary unit for the letter i, which latex2sympy takes for a name: so i^2 is -1."""
    from sympy import I, MatrixBase

    if isinstance(read, (list, tuple)) and type(read) in (list, tuple):
        return type(read)(map(_with_unit, read))
    names = [name for name in getattr(read, "free_symbols", ()) if name.name == "i"]
    if not names or getattr(read, "is_Relational", False):
        return read
    try:
        return read.subs(dict.fromkeys(names, I)) if not isinstance(read, MatrixBase) else read.applyfunc(_with_unit)
    except (TypeError, ValueError):  # an order or an interval of complex numbers: there it is a name
        return read


def _exact() -> None:
    """Compare numbers exactly in the place of math-verify's 15 digits, in which 1 / 20! and 1 / 22! are the same."""
    import math_verify.grader as library
    from sympy import Basic, Expr, Float, MatrixBase, UnevaluatedExpr, expand

    numeric, symbolic = library.sympy_numeric_eq, library.sympy_symbolic_eq

    def closed(expression: Any) -> bool:
        return isinstance(expression, Basic) and not expression.has(UnevaluatedExpr) and expression.is_number is True

    def numeric_eq(a: Any, b: Any, float_rounding: int, numeric_precision: int) -> bool:
        if isinstance(a, MatrixBase) or isinstance(b, MatrixBase):
            same_shape = isinstance(a, MatrixBase) and isinstance(b, MatrixBase) and a.shape == b.shape
            return same_shape and all(
                numeric_eq(x, y, float_rounding, numeric_precision) or symbolic_eq(x, y)
                for x, y in zip(a.doit().flat(), b.doit().flat(), strict=True)
            )
        if not closed(a) or not closed(b):
            if isinstance(a, Expr) and isinstance(b, Expr) and not (a - b).has(Float, UnevaluatedExpr):
                return expand(a - b) == 0  # else algebra has to tell
            return numeric(a, b, float_rounding, numeric_precision)
        return _same_value(a.doit(), b.doit(), float_rounding, Float)

    def symbolic_eq(a: Any, b: Any) -> bool:
        return False if closed(a) and closed(b) else symbolic(a, b)

    library.sympy_numeric_eq, library.sympy_symbolic_eq = numeric_eq, symbolic_eq


def _same_value(a: Any, b: Any, places: int, decimal: Any) -> bool:
    """Whether two expressions without letters are one number; decimals of `places` digits and more may be rounded."""
    from sympy import nan, zoo

    if a == b:
        return True
    if {nan, zoo} & {a, b} or (a.is_Rational and b.is_Rational):
        return False
    if a.is_infinite or b.is_infinite:
        return False
    digits = 60
    x, y = a.evalf(digits), b.evalf(digits)
    if not (x.is_number and y.is_number):
        return False
    gap, size = abs(x - y), max(abs(x), abs(y))
    if a.has(decimal) or b.has(decimal):
        return bool(gap * 10**5 <= size and gap * 10**places <= 0.5)
    if bool(gap > size * 10 ** (10 - digits)):
        return False
    return (a - b).equals(0) is not False


def _no_eval() -> None:
    """Let SymPy turn text into numbers and names only; its own reader evaluates the text as Python."""
    import sympy
    import sympy.parsing.sympy_parser as parser

    def read(text: str, *_: object, **__: object) -> Any:
        if re.fullmatch(r"[0-9]+", text):
            return sympy.Integer(int(text))
        if re.fullmatch(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", text):
            # Exact, unless it has so many places that it may be a rounded one
            places = len(text.lower().partition("e")[0].partition(".")[2])
            return sympy.Rational(text) if places < _ROUNDED else sympy.Float(text)
        if ratio := re.fullmatch(r"([+-]?[0-9]+)/([0-9]+)", text):
            return sympy.Rational(int(ratio[1]), int(ratio[2]))
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", text):  # SymPy names its own units so
            return sympy.Symbol(text)
        raise parser.TokenError(f"refused: {text[:80]!r}")

    parser.parse_expr = read


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook for what algebra never needs."""
    forbidden = event.startswith(("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pty.", "urllib."))
    if event == "open":
        mode, flags = arguments[1] or "", arguments[2] or 0
        forbidden = bool(set(mode) & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if event == "compile":
        forbidden = str(arguments[1]).startswith("<lambdify")
    if forbidden and event not in ("os.listdir", "os.scandir"):  # those two are how Python imports
        raise PermissionError(f"{event} while grading")


def _restrict() -> None:
    _no_eval()
    _exact()
    sys.dont_write_bytecode = True
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform.startswith("linux"):  # elsewhere the limit is refused or ignored
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.addaudithook(_refuse)


def serve(seconds: float) -> None:
    """Answer the lines of standard input until it ends; each may take `seconds`, which the caller sees to."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever prints must not be taken for a reply
    importlib.import_module("math_verify")

    logging.disable(logging.CRITICAL)
    _restrict()
    verdict(r"2\sqrt{3} x", r"\frac{x \sqrt{48}}{2}")  # what SymPy puts off until it is used is off the clock
    replies.write('{"ready": true}\n')
    replies.flush()
    for line in sys.stdin:
        pair = json.loads(line)
        # Where the caller is gone and this hangs, the system ends it; a Python handler would wait for long arithmetic
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
        said, detail = verdict(pair["gold"], pair["answer"])
        replies.write(json.dumps({"verdict": said, "detail": detail}) + "\n")
        replies.flush()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    serve(float(sys.argv[1]))
