r"""Numbers in all their spellings against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.grading import decide


def _spellings(value: Fraction) -> list[tuple[str, Fraction]]:
    """Texts that stand for `value`, and what each says exactly."""
    over, under = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    texts = [rf"{sign}\frac{{{over}}}{{{under}}}", f"{sign}{over}/{under}", rf"$\dfrac{{{sign}{over}}}{{{under}}}$"]
    if under == 1:
        texts += [f"{sign}{over}", f"{sign}{over:,}", f"{sign}{over}.0", rf"\${sign}{over}", f"{sign}{over} eggs"]
        texts += [f"−{over}"] if value < 0 else [f"{over:05d}"]
    elif over > under:
        texts += [rf"{sign}{over // under}\frac{{{over % under}}}{{{under}}}"]
        texts += [f"{sign}{over // under} {over % under}/{under}"]
    rounded = [f"{sign}{over / under:.3f}", f"{sign}{over / under:.3e}"]
    return [(text, value) for text in texts] + [(text, Fraction(text)) for text in rounded]


fractions = st.builds(Fraction, st.integers(-3000, 3000), st.integers(1, 9))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(fractions, fractions, st.booleans(), st.data())
def test_numbers_are_compared_exactly(gold: Fraction, other: Fraction, percent: bool, data: st.DataObject) -> None:
    expected, gold = data.draw(st.sampled_from(_spellings(gold)))
    for value in (gold, other):
        answer, meant = data.draw(st.sampled_from(_spellings(value)))
        right = gold == meant
        if percent and "eggs" not in answer:
            answer += r"\%"
            right = gold == meant / 100 or (right and abs(gold) >= 1)
        assert decide(expected, answer) is right, (expected, answer)


def test_rounding_starts_at_six_decimals_and_keeps_five_digits() -> None:
    third, tiny = r"\frac{1}{3}", "0.0000012"
    same = [(third, "0.333333"), (third, "0.33333333"), ("2/3", "0.666667"), (tiny, "1.2e-6")]
    different = [(third, "0.33333"), ("2/3", "0.666666"), (tiny, "0.0000013"), ("0.1234567", "0.1234577")]
    assert [decide(*pair) for pair in same + different] == [True] * 4 + [False] * 4
