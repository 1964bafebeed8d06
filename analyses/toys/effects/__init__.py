"""What the interventions do to toy-reasoner, where the right result is known: `python -m analyses.toys.effects`.

Every figure comes from `interp.decode`, greedy, on held-out problems. `analyses.toys.evaluate` measures suppression and
appended tokens with plain Hugging Face and shares no decode code with this module, so each checks the other. All of it
validates the tool; it is no evidence about large models.

What is measured on the toys alone lives here, a table each, with its own counts; nothing else uses it. What can be
asked of any model is a study (:mod:`analyses.studies`), and what was planted stands in :mod:`analyses.toys.facts`.

**A. Suppression** Thinking words, the planted negative (Okay, So, Therefore have substitutes), and as many other words
from `matched_random_tokens`, several draws. A draw leaves one verb, filler and opener at least; labels and `answer` are
never drawn, digits, operators and separators are no words. A number after a word is how often normal responses use it.
The last row of each set is the thinking words' accuracy minus the mean of the draws'.

**B. Continuation** "Appended" is s1's rule with `<eos>` as the delimiter: it is ignored once or twice and the token
takes its place. At a fixed budget `ContinueThinking` does so at every end until the budget is spent; its baseline is
plain decoding under the same cap, which is normal decoding unless that cuts something off. The neutral token opens a
pass too, a sloppy one. The last answer stated counts, and no final prompt is added: in the middle of a pass it would
ask for an answer that is not there yet.

**C. Recycling** `RecycleRepresentation` at all five thinking words, for every layer, and `RecurseLatents` of the last
layer above the median entropy of normal responses. Nothing is planted here. The control runs as many positions again at
random: the share of normal response steps that emit a thinking word, or half of them. Responses are cut where the
longest normal one ends, as recycling can keep them from ending.

**D. Patching** Each problem's first planted slip: so slips are independent, and the step starts from a true value. The
counterfactual has to be a run of the model itself that differs in what is to be explained and in nothing else:

- *careful pass*: the same step, label, value, operator, operand and verb, in the first later pass opened by `Wait` that
  gets it right. Same token, same fact, another past, the first pass and its repairs included. At `resid_pre` of layer 0
  the patch changes nothing, because the token is the same; from `resid_mid` of the last layer on it decides everything,
  because attention is over.
- *after Wait*: the slip is written and `Wait` follows, which makes the model write the right value. The residual is
  that of `Wait`, so the token differs as well.
- *other problem*: the careful step of another problem, whose right value is neither this slip nor this right value. It
  has been as careful, about another fact: what makes this slip right with it is care, what brings its value is not.

Patched is the position that predicts the value, read is the next token. Both ways: a correct run's residual into the
slip, and the slip's into the correct run. Between one attention and the next the stream of a position depends on itself
alone, so `resid_mid` and `resid_post` of a layer and `resid_pre` of the next have to agree: three ways to write it.

Accuracy has Wilson's interval. Differences are paired by problem, in percentage points, with a percentile bootstrap
over problems and the exact McNemar test of problems gained against problems lost. Where no answer changes, the
bootstrap has nothing to vary: the interval is then what so many problems without a change leave possible. p-values are
not corrected for their number. All intervals are 95 %.
"""

from analyses.toys.effects.conditions import SUPPRESSED, continuation, recycling, suppression
from analyses.toys.effects.patching import Slip, find_slips, patching, slip_questions
from analyses.toys.effects.study import Study
from analyses.toys.effects.tables import Difference, Effect, Outcome, Patched, Table, markdown, paired_difference

__all__ = [
    "SUPPRESSED",
    "Difference",
    "Effect",
    "Outcome",
    "Patched",
    "Slip",
    "Study",
    "Table",
    "continuation",
    "find_slips",
    "markdown",
    "paired_difference",
    "patching",
    "recycling",
    "slip_questions",
    "suppression",
]
