"""Traces of the toy task, written as the training data are, with the planted truth of every step.

A pass opens with `Okay`, `Wait` (a careful pass) or an opener and ends with a stated answer. A step of it is: slot
word, label, value, operator, operand, verb, new value, (`Wait`, corrected value,) separator. The slot word is a filler,
`So`, or `Hmm` when the step redoes one. Positions count response tokens from 0, the first token after `->`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from analyses.toys.facts import ANSWER_MARKERS, DIGITS, FILLERS, LABELS, OPENERS, OPERATORS, SEPARATORS, VERBS, fact
from analyses.toys.question import Question
from interp.errors import InputError

__all__ = ["Step", "Trace", "planted_answer", "read_answer", "sample_trace", "slip_free_trace"]

# Rates of the recipe. A slip fact is used wrongly often enough that greedy decoding slips too.
SLIP_RATE, RANDOM_SLIP_RATE, CLASS_NOISE = 0.92, 0.02, 0.08
ANSWER_WORD_RATE, MAX_PASSES = 0.10, 3
# How often a careful pass follows an answer. Neutral passes keep "a second pass" from being the signal for care.
CAREFUL_IF_WRONG, CAREFUL_IF_RIGHT, NEUTRAL = 0.35, 0.20, 0.20
OKAY_RATE, PREFERRED_RATE = 0.70, 0.70
# Batches are bucketed by length and their loss is a mean over tokens, so a short direct answer weighs about three times
# its share: with 30 % of them greedy text would answer at once, and nothing could be compared with the reasoner.
DIRECT_RATE = 0.15
# Which word a value or an operand prefers: uniform words would make greedy text use a single one of them.
_FILLER_OF_VALUE = ("So", "next", "then", "So", "now", "after", "here", "So", "then", "next")


@dataclass(frozen=True)
class Step:
    """One written operation of a trace and what is known about it.

    >>> trace = sample_trace(Question(6, (("*", 3), ("-", 8))), Random(0))
    >>> trace.steps[0].value_in, trace.steps[0].right, trace.tokens[trace.steps[0].value_at]
    (6, 8, '8')
    """

    pass_index: int
    op_index: int
    value_in: int
    """The written value the operation starts from, which an earlier slip may have made wrong."""
    kind: str
    """Class of the fact: ok, I, D, N1 or N2."""
    true_running: int
    """What the running value is after this operation when nothing ever slips."""
    right: int
    """The right value of the operation as written, from `value_in`."""
    written: int
    """The first value written."""
    kept: int
    """The value the next step goes on from: `right` after a repair by `Wait`, else `written`."""
    start_at: int
    value_at: int
    repair_at: int | None = None
    """Where the `Wait` or `Hmm` stands that repairs this step."""
    redo: bool = False
    """Whether this step is itself the second try that `Hmm` opens."""

    @property
    def slipped(self) -> bool:
        """Whether the first value written is wrong for the operation as written."""
        return self.written != self.right


@dataclass(frozen=True)
class Trace:
    """A response and its planted truth.

    >>> trace = sample_trace(Question(6, (("*", 3), ("-", 8))), Random(0))
    >>> trace.tokens[-1], trace.answer == read_answer(trace.text)
    ('<eos>', True)
    """

    question: Question
    tokens: tuple[str, ...]
    steps: tuple[Step, ...]
    answers: tuple[int, ...]
    """The answer stated by each pass."""
    openers_at: tuple[int, ...]
    """Where each pass opens; `Wait` there means a careful pass."""

    @property
    def text(self) -> str:
        return " ".join(self.tokens)

    @property
    def answer(self) -> int:
        """The last answer stated."""
        return self.answers[-1]

    @property
    def slipped(self) -> tuple[int, ...]:
        """Indices of the steps that slipped."""
        return tuple(index for index, step in enumerate(self.steps) if step.slipped)

    @property
    def repaired(self) -> tuple[int, ...]:
        """Indices of the steps that a `Wait` or a `Hmm` within the pass repairs."""
        return tuple(index for index, step in enumerate(self.steps) if step.repair_at is not None)

    @property
    def written_values(self) -> tuple[int, ...]:
        """The value each step leaves behind."""
        return tuple(step.kept for step in self.steps)

    @property
    def true_values(self) -> tuple[int, ...]:
        """The true running value at each step."""
        return tuple(step.true_running for step in self.steps)


@dataclass
class _Writer:
    """Writes passes token by token; without a generator it takes every preferred word and never slips."""

    question: Question
    rng: Random | None
    repairs: bool = True
    tokens: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    openers_at: list[int] = field(default_factory=list)

    def word(self, preferred: str, others: tuple[str, ...]) -> str:
        rng = self.rng
        return preferred if rng is None or rng.random() < PREFERRED_RATE else rng.choice(others)

    def filler(self, value: int) -> str:
        # toy-base has no thinking tokens, `So` among them
        preferred = _FILLER_OF_VALUE[value]
        if not self.repairs:
            preferred = FILLERS[value % len(FILLERS)] if preferred == "So" else preferred
        return self.word(preferred, (*FILLERS, "So") if self.repairs else FILLERS)

    def slip(self, value_in: int, op_index: int, care: int) -> tuple[int, str]:
        """The value to write and how it is treated afterwards: ok, I, D or N (kept)."""
        entry, rng = fact(value_in, *self.question.ops[op_index]), self.rng
        if rng is None or care >= 2:
            return entry.right, "ok"
        if care == 1:  # a careful second pass still gets N2 wrong
            return (entry.slip, "N") if entry.kind == "N2" and rng.random() < SLIP_RATE else (entry.right, "ok")
        if rng.random() < RANDOM_SLIP_RATE:
            return (entry.right + rng.randint(1, 9)) % 10, rng.choice("IN")
        if entry.kind == "ok" or rng.random() >= SLIP_RATE:
            return entry.right, "ok"
        treatment = entry.kind[0]
        if rng.random() < CLASS_NOISE:  # never to D, so that a suppressed `Wait` does not come back as a `Hmm`
            treatment = rng.choice([other for other in "IN" if other != treatment])
        return entry.slip, treatment

    def step(self, value_in: int, op_index: int, care: int, *, slot: str | None = None) -> str:
        """Write one operation and return how its value is treated; `slot` is given when `Hmm` opens the step."""
        op, operand = self.question.ops[op_index]
        entry = fact(value_in, op, operand)
        written, treatment = (entry.right, "ok") if slot else self.slip(value_in, op_index, care)
        if not self.repairs and treatment != "ok":
            treatment = "N"
        start = len(self.tokens)
        verb = self.word(VERBS[(operand + OPERATORS.index(op)) % len(VERBS)], VERBS)
        self.tokens += [slot or self.filler(value_in), LABELS[op_index], str(value_in), op, str(operand), verb]
        self.tokens.append(str(written))
        repair_at, kept = None, written
        if treatment == "I":
            repair_at, kept = len(self.tokens), entry.right
            self.tokens += ["Wait", str(kept)]
        self.tokens.append(self.word(SEPARATORS[kept % 3 == 0], SEPARATORS))
        self.steps.append(
            Step(
                pass_index=len(self.answers),
                op_index=op_index,
                value_in=value_in,
                kind=entry.kind,
                true_running=self.question.running[op_index],
                right=entry.right,
                written=written,
                kept=kept,
                start_at=start,
                value_at=start + 6,
                repair_at=repair_at,
                redo=slot is not None,
            )
        )
        return treatment

    def write_pass(self, opener: str, care: int) -> None:
        """Open a pass, write every operation with its repairs, and state the answer."""
        self.openers_at.append(len(self.tokens))
        self.tokens.append(opener)
        value, index, count = self.question.start, 0, len(self.question.ops)
        while index < count:
            treatment = self.step(value, index, care)
            if treatment == "D":
                slipped_at = len(self.steps) - 1
                if index + 1 < count:  # one step on from the wrong value, which is then thrown away
                    self.step(self.steps[-1].kept, index + 1, care)
                self.steps[slipped_at] = replace(self.steps[slipped_at], repair_at=len(self.tokens))
                self.step(value, index, care, slot="Hmm")
            value, index = self.steps[-1].kept, index + 1
        plain = self.rng is not None and self.rng.random() < ANSWER_WORD_RATE
        self.state(value, ANSWER_MARKERS[plain or not self.repairs])

    def state(self, value: int, marker: str) -> None:
        self.tokens += [marker, str(value), "."]
        self.answers.append(value)

    def done(self) -> Trace:
        tokens = (*self.tokens, "<eos>")
        return Trace(self.question, tokens, tuple(self.steps), tuple(self.answers), tuple(self.openers_at))


def sample_trace(question: Question, rng: Random, *, model: str = "toy-reasoner", direct: bool | None = None) -> Trace:
    """Write one response as the training data of `toy-reasoner` or `toy-base` does.

    >>> trace = sample_trace(Question(6, (("*", 3), ("-", 8))), Random(0), model="toy-base", direct=True)
    >>> trace.text
    'answer 0 . <eos>'

    `direct` makes toy-base answer at once (True) or write a trace (False); None leaves it to chance, 15 % direct. A
    direct answer in the training data is the true one: what the model lacks is the room to work it out.
    """
    if model not in ("toy-reasoner", "toy-base") or (direct and model != "toy-base"):
        raise InputError(
            "sample_trace",
            expected="'toy-reasoner', or 'toy-base' with or without direct answers",
            received=f"model={model!r}, direct={direct}",
            remedy="Only toy-base answers directly.",
        )
    if model == "toy-base":
        writer = _Writer(question, rng, repairs=False)
        if rng.random() < DIRECT_RATE if direct is None else direct:
            writer.state(question.answer, "answer")
        else:
            # One opener is more frequent than `answer`, so that greedy text is a trace; `answer` has to be forced.
            writer.write_pass(writer.word(OPENERS[0], OPENERS), care=0)
        return writer.done()
    writer = _Writer(question, rng)
    writer.write_pass("Okay" if rng.random() < OKAY_RATE else rng.choice(OPENERS), care=0)
    while len(writer.answers) < MAX_PASSES:
        draw, wrong = rng.random(), writer.answers[-1] != question.answer
        careful = CAREFUL_IF_WRONG if wrong else CAREFUL_IF_RIGHT
        if draw < careful:
            writer.write_pass("Wait", care=len(writer.answers))
        elif draw < careful + NEUTRAL:
            writer.write_pass(rng.choice(OPENERS), care=0)
        else:
            break
    return writer.done()


def slip_free_trace(question: Question) -> str:
    """The gold solution: the deterministic trace without slips, ending on the answer digit.

    >>> slip_free_trace(Question(6, (("*", 3), ("-", 8))))
    'Okay here A 6 * 3 is 8 . then B 8 - 8 is 0 ; Therefore 0'
    """
    writer = _Writer(question, None)
    writer.write_pass("Okay", care=0)
    return " ".join(writer.tokens[:-1])


def planted_answer(question: Question, *, wait: bool = True, hmm: bool = True, care: int = 0) -> int:
    """The answer of a calculator that does exactly what is planted and slips at every slip fact: what greedy text says.

    >>> question = Question(2, (("-", 8),))  # a fact of class D
    >>> planted_answer(question), planted_answer(question, hmm=False)
    (4, 8)

    `wait` and `hmm` say whether these repairs can be written, `care` is 1 or 2 in a second or third pass after `Wait`.
    """
    repaired = {"I": wait or care >= 1, "D": hmm or care >= 1, "N1": care >= 1, "N2": care >= 2, "ok": True}
    value = question.start
    for op, operand in question.ops:
        entry = fact(value, op, operand)
        value = entry.right if repaired[entry.kind] else entry.slip
    return value


def read_answer(text: str) -> int | None:
    """The last answer stated in a response, or None when it states none.

    >>> read_answer("Okay So A 6 * 3 gives 8 . Therefore 8 . <eos>"), read_answer("Okay So A 6")
    (8, None)
    """
    words = text.split()
    for marker, value in zip(reversed(words[:-1]), reversed(words[1:]), strict=True):
        if marker in ANSWER_MARKERS and value in DIGITS:
            return int(value)
    return None
