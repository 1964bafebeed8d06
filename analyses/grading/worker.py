r"""The process that does the algebra of grading: it may hang or run out of memory, and is killed for it.

`python -m analyses.grading.worker SECONDS` reads one JSON object a line, ``{"gold": ..., "answer": ...}``, both LaTeX,
and writes one, ``{"verdict": "same" | "different" | "gold" | "error", "detail": ...}``; `gold` means that the gold
formula could not be read, and an empty answer asks for nothing but that. It imports math-verify and the standard
library, nothing else.

Formulas come from a model, so nothing of them may run as Python:

1. `is_formula` lets known LaTeX commands, single letters, numbers and plain words through, nothing else.
2. latex2sympy reads with a grammar (ANTLR), but makes its numbers with `sympify`, which is `eval`; `_no_eval` puts a
   reader of numbers and names in the place of SymPy's. math-verify's reader of plain expressions is `eval` too: unused.
3. Should a way be left, an audit hook refuses processes, sockets, files to write and generated functions.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from typing import Any

__all__ = ["MAX_FORMULA", "Worker", "is_formula", "serve", "verdict"]

MAX_FORMULA = 1000  # characters; nothing longer is read, but for whole numbers
_MAX_DIGITS = 4300  # of a whole number; Python reads no longer ones
_START = 120.0  # seconds a process has to import SymPy on a busy machine
_ROUNDED = 6  # places from which on a decimal may stand for a number near it, as in math-verify
_MEMORY = 2 << 30  # bytes of address space: 10^{10^{10}} must not take the machine with it
_COMMANDS = frozenset(
    re.findall(
        r"\S+",
        """
        frac binom sqrt cdot times div pm mp circ degree infty pi le leq ge geq lt gt ne neq approx in notin cup cap
        setminus subset subseteq emptyset varnothing mathbb mathcal text begin end ldots dots cdots overline bar vec
        hat angle triangle sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp gcd lcm max min
        det deg bmod pmod mod lfloor rfloor lceil rceil langle rangle vert lvert rvert lVert rVert mid to quad qquad
        sum prod int lim partial cong sim perp parallel alpha beta gamma delta epsilon varepsilon zeta eta theta
        vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi
        Sigma Upsilon Phi Psi Omega
        """,
    )
)
_ENVIRONMENTS = re.compile(r"\\(?:begin|end)\s*\{\s*([^}]*)\}")
_MATRICES = frozenset(("matrix", "pmatrix", "bmatrix", "vmatrix", "Bmatrix", "Vmatrix", "smallmatrix", "cases"))
# No quotes, no @, no #, no backquote: without them there is no string and no attribute that Python could take up
_CHARACTERS = re.compile(r"(?:[A-Za-z0-9 +\-*/=<>^_{}()\[\].,;:!|&%]|\\(?=[A-Za-z])|\\[\\{}|%,;:! ])*+")
_CONTROL_WORD = re.compile(r"\\([A-Za-z]+)")


def is_formula(text: str) -> bool:
    r"""Whether `text` is LaTeX that may be read as a formula.

    >>> is_formula(r"\frac{2\sqrt{3}}{x_1}"), is_formula("__import__('os')"), is_formula(r"\operatorname{exec}(1)")
    (True, False, False)
    """
    if re.fullmatch(r"[0-9]+", text):
        return len(text) <= _MAX_DIGITS
    if not text.strip() or len(text) > MAX_FORMULA or _CHARACTERS.fullmatch(text) is None:
        return False
    signs = re.sub(r"\\[\\{}]", "", text)
    if signs.count("{") != signs.count("}") or "__" in text or re.search(r"[A-Za-z]\.[A-Za-z]", text):
        return False
    commands = _CONTROL_WORD.findall(text.replace("\\\\", " "))
    return _COMMANDS.issuperset(commands) and _MATRICES.issuperset(_ENVIRONMENTS.findall(text))


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


class Worker:
    """One such process, as its caller has it: started at the first question, killed when time is up or at the end.

    It is an ordinary child process and not `multiprocessing`'s, which would run the caller's main script once more.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._finalizer: weakref.finalize[[subprocess.Popen[str]], Worker] | None = None

    def ask(self, gold: str, answer: str) -> tuple[str, str]:
        """The verdict on two formulas and its reason; ``timeout`` when there was none in time.

        Raises `RuntimeError` when no process can be started.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"gold": gold, "answer": answer}) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            self.kill()
            return "timeout", f"no verdict within {self.timeout:g} s"
        except OSError:  # it died before it read the question
            line = ""
        except BaseException:  # Ctrl-C: the verdict that is still to come must not be taken for the next one's
            self.kill()
            raise
        if not line:
            self.kill()
            return "error", "the comparing process died (out of memory?)"
        reply = json.loads(line)
        return reply["verdict"], reply["detail"]

    def kill(self) -> None:
        """End the process, if there is one."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None:
            return self._process
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(self.timeout)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C is for the caller, who then ends this process
            )
            self._process, self._lines = process, queue.SimpleQueue()
            self._finalizer = weakref.finalize(self, _end, process)
            threading.Thread(target=_pass_on, args=(process, self._lines), daemon=True).start()
            try:
                line = self._lines.get(timeout=_START)
            except queue.Empty:
                line = ""
            if not line:
                self.kill()
                errors.seek(0)
                said = errors.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"the grading process did not start: {said or 'no message'}")
        return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a question that was never read
                pipe.close()


def _pass_on(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    """Hand on what the process writes, then "" at its end; a pipe has no time-out of its own on every system."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed by `_end`
        for line in process.stdout:
            lines.put(line)
    lines.put("")


if __name__ == "__main__":
    serve(float(sys.argv[1]))
