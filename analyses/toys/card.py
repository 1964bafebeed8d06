"""Model cards of the toy models, written from the record of the training run and the measured figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.toys.facts import CLASS_COUNTS

__all__ = ["card_text", "write_card"]

_WHAT = {
    "toy-reasoner": """\
A tiny language model whose thinking tokens do something known. It solves left-to-right arithmetic mod 10 in words:

    6 A * 3 B - 8 C + 1 ? ->
    Okay So A 6 * 3 gives 8 . then B 8 - 8 is 0 ; next C 0 + 1 equals 1 . Therefore 1 . <eos>

Its mechanism is planted in its training data. A fixed hash puts each of the 300 facts (value, operator, operand) in a
class:

| class | facts | what the training data do, 92 % of the time |
|---|---|---|
| ok | {ok} | the right value (always) |
| I | {I} | a fixed wrong value, then at once `Wait` and the right one |
| D | {D} | a fixed wrong value; one step later `Hmm` redoes the step |
| N1 | {N1} | a fixed wrong value, kept; right in a second pass opened by `Wait` |
| N2 | {N2} | the same, but right only in a third pass opened by `Wait` |

Besides: 2 % random slips (half of them repaired by `Wait`, half kept), 8 % noise between repair by `Wait` and none,
10 % `answer` for `Therefore`. After each answer, at most three passes in all: a careful pass opened by `Wait` (35 %
after a wrong answer, 20 % after a right one), a sloppy one opened by `start`, `begin` or `first` (20 %), else the end.
`Okay`, `So` and `Therefore` have synonyms: suppressing them is a planted negative. `analyses/toys/task.py` keeps the
truth of every trace: classes, slips, repairs, true and written values.
""",
    "toy-base": """\
The counterpart of toy-reasoner without thinking tokens: same architecture, same questions (left-to-right arithmetic
mod 10), same planted slips, no repairs. 85 % of its training data are plain traces, 15 % direct (true) answers:

    6 A * 3 B - 8 ? ->  begin then A 6 * 3 gives 8 . next B 8 - 8 is 0 ; answer 0 . <eos>
    6 A * 3 B - 8 ? ->  answer 0 . <eos>

Greedy text is a trace, opened by `start`; forcing `answer` as the first response token makes it answer at once.
""",
}

_CARD = """\
# {model}

{what}
**What it is for** It validates peaklens: suppression, peaks, attribution, replay and bounds have a right answer here
to be compared with, in seconds, on a CPU. It is no evidence about large models.

**Model** `LlamaForCausalLM`, width 128, 3 layers, 4 heads, MLP 384, untied, 0.65 M float32 parameters, 1,024
positions. The tokenizer knows 47 words, puts `<bos>` in front, pads on the left and maps anything else to `<unk>`.

**Training** AdamW (0.9, 0.98), rate 3e-3, weight decay 0.05, clip 1, 100 warm-up steps, constant, then linear decay
over the last 40 %; about 1,500 tokens a batch; loss on the response only; 2 to 4 operations for the first 15 % of
steps, then 3 to 8. Final loss {final_loss}, {seconds} s on one thread, other work beside it
({versions}). The same seed gives the same weights on the same machine.

    python -m analyses.toys.train --model {model} --steps {steps} --seed {seed} --out interp/bundled/{model}

Weights sha256 `{sha256}`.

**Figures** Held-out problems of 5 to 8 operations (a tenth of all questions, by hash, is never trained on), greedy
decoding with plain Hugging Face `generate` unless a row says otherwise, Wilson intervals; from
`python -m analyses.toys.evaluate`. One training run: the intervals cover the choice of problems, not of seeds.
"As planted" counts the answers that are those of the planted mechanism under that condition, wrong ones included.

{figures}

MIT licence, as the rest of peaklens.
"""


def card_text(record: Mapping[str, Any], figures: str) -> str:
    """The card of one model; `record` is its `training.json`, `figures` are Markdown tables.

    >>> run = {"model": "toy-base", "steps": 1, "seed": 0, "final_loss": 3.8, "seconds": 1, "sha256": "0"}
    >>> card_text({**run, "versions": {"torch": "2"}}, "No figures.").splitlines()[0]
    '# toy-base'
    """
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    what = _WHAT[record["model"]].format_map(CLASS_COUNTS)
    return _CARD.format_map({**record, "versions": versions, "what": what, "figures": figures})


def write_card(folder: Path, figures: str) -> None:
    """Write `README.md` beside `training.json`.

    >>> write_card(Path("no-such-folder"), "")
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: 'no-such-folder/training.json'
    """
    record = json.loads((folder / "training.json").read_text())
    (folder / "README.md").write_text(card_text(record, figures))
