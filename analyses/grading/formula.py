r"""Which text may be read as a formula: known LaTeX commands, single letters, numbers and plain words, nothing else.

A formula comes from a model, so nothing of it may run as Python; this is the first of the three doors that
:mod:`analyses.grading.algebra` names.
"""

from __future__ import annotations

import re

__all__ = ["MAX_FORMULA", "is_formula"]

MAX_FORMULA = 1000  # characters; nothing longer is read, but for whole numbers
_MAX_DIGITS = 4300  # of a whole number; Python reads no longer ones
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
