"""The figures of the toy models' cards: `python -m analyses.toys.evaluate`.

Greedy decoding of held-out problems with plain Hugging Face `generate`: left padding (`generate` derives position ids
from the attention mask), `suppress_tokens` for suppression, a new prefill for everything appended. It shares no code
with the decode loop of `interp`, so that each can be checked against the other.

Intervals are Wilson's, 95 %. Conditions share their problems, so differences between them are surer than the intervals
suggest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.stats import wilson
from analyses.toys.card import write_card
from analyses.toys.facts import OPENERS, SUBSTITUTES, THINKING, VERBS, fact_table
from analyses.toys.task import Question, held_out_questions, planted_answer, read_answer
from interp.errors import InputError

__all__ = [
    "BUNDLED",
    "Figure",
    "base_figures",
    "complete",
    "control_tokens",
    "fact_figures",
    "load",
    "measure",
    "reasoner_figures",
    "tables",
]

BUNDLED = Path(str(files("interp"))) / "bundled"
CONTROL_DRAWS = 3
_BATCH, _LIMIT = 160, 400


@dataclass(frozen=True)
class Figure:
    """`right` of `n` under one condition.

    >>> print(Figure("normal", 230, 320))
    normal: 71.9 % [66.7, 76.5], 230 of 320
    """

    name: str
    right: int
    n: int
    as_planted: int | None = None
    """How many answers are those of the planted mechanism, wrong ones included; None where it says nothing."""

    @property
    def share(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        found = wilson(self.right, self.n)
        return found.low, found.high

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.name}: {100 * self.share:.1f} % [{100 * low:.1f}, {100 * high:.1f}], {self.right} of {self.n}"


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, ready to generate.

    >>> model, tokenizer = load(BUNDLED / "toy-base")
    >>> model.training
    False
    """
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def complete(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    suppress: Sequence[str] = (),
    temperature: float = 0.0,
    max_new_tokens: int = _LIMIT,
) -> list[str]:
    """Continue each text to its end; returns the new words alone, `<eos>` left out.

    >>> model, tokenizer = load(BUNDLED / "toy-base")
    >>> complete(model, tokenizer, ["6 A * 3 B - 8 ? -> answer"], max_new_tokens=2)[0].endswith(" .")
    True

    With a temperature it samples from torch's global generator: seed that first.
    """
    extra: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
    if suppress:
        extra["suppress_tokens"] = tokenizer.convert_tokens_to_ids(list(suppress))
    written: list[str] = []
    for first in range(0, len(texts), _BATCH):
        batch = tokenizer(list(texts[first : first + _BATCH]), return_tensors="pt", padding=True)
        ids: Int[Tensor, "batch pos"] = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=max_new_tokens,
            **extra,
        )
        new = ids[:, batch["input_ids"].shape[1] :]
        written += tokenizer.batch_decode(new, skip_special_tokens=True)
    return written


def control_tokens(size: int, rng: Random) -> list[str]:
    """`size` ordinary words to suppress as a control, with a synonym of each kind left.

    >>> words = control_tokens(5, Random(0))
    >>> len(words), any(set(kind) <= set(words) for kind in SUBSTITUTES)
    (5, False)
    """
    pool = [word for kind in SUBSTITUTES for word in rng.sample(kind, len(kind) - 1)]
    if not 0 <= size <= len(pool):
        raise InputError(
            "control_tokens", expected=f"0 to {len(pool)} words", received=str(size), remedy="Ask for fewer."
        )
    return rng.sample(pool, size)


def _score(
    name: str,
    questions: Sequence[Question],
    responses: Sequence[str],
    planted: Callable[[Question], int] | None = planted_answer,
) -> Figure:
    answers = [read_answer(response) for response in responses]
    right = sum(answer == question.answer for question, answer in zip(questions, answers, strict=True))
    if planted is None:
        return Figure(name, right, len(questions))
    agreed = sum(answer == planted(question) for question, answer in zip(questions, answers, strict=True))
    return Figure(name, right, len(questions), agreed)


def _continued(decode: Any, prompts: Sequence[str], responses: Sequence[str], token: str) -> list[str]:
    """Responses with a token appended after the end, and what the model then adds."""
    begun = [f"{response} {token}" for response in responses]
    added = decode([f"{prompt} {response}" for prompt, response in zip(prompts, begun, strict=True)])
    return [f"{response} {new}" for response, new in zip(begun, added, strict=True)]


def reasoner_figures(model: Any, tokenizer: Any, n: int = 320, *, max_new_tokens: int = _LIMIT) -> list[Figure]:
    """Accuracy of toy-reasoner on `n` held-out problems under every condition.

    >>> model, tokenizer = load(BUNDLED / "toy-reasoner")
    >>> reasoner_figures(model, tokenizer, 2, max_new_tokens=1)[0].name
    'normal'
    """
    questions = held_out_questions(n)
    prompts = [question.text for question in questions]
    decode = partial(complete, model, tokenizer, max_new_tokens=max_new_tokens)
    conditions: list[tuple[str, list[str]]] = [
        ("Wait suppressed", ["Wait"]),
        ("Hmm suppressed", ["Hmm"]),
        ("Wait and Hmm suppressed", ["Wait", "Hmm"]),
        ("all five thinking tokens suppressed", list(THINKING)),
        ("Okay, So, Therefore suppressed", ["Okay", "So", "Therefore"]),
    ]
    for draw in range(CONTROL_DRAWS):
        words = control_tokens(len(THINKING), Random(draw))
        conditions.append((f"control {draw + 1}: {', '.join(words)} suppressed", words))
    normal = decode(prompts)
    results = [_score("normal", questions, normal)]
    for name, words in tqdm(conditions, desc="suppression", disable=None):
        planted = partial(planted_answer, wait="Wait" not in words, hmm="Hmm" not in words)
        results.append(_score(name, questions, decode(prompts, suppress=words), planted))
    for token in tqdm(("Wait", OPENERS[0]), desc="appended", disable=None):
        kind, care = ('"Wait"', 1) if token == "Wait" else (f'neutral "{token}"', 0)
        once = _continued(decode, prompts, normal, token)
        twice = _continued(decode, prompts, once, token)
        results.append(_score(f"{kind} appended", questions, once, partial(planted_answer, care=care)))
        results.append(_score(f"{kind} appended twice", questions, twice, partial(planted_answer, care=2 * care)))
    for name, words in (("", []), (", Wait and Hmm suppressed", ["Wait", "Hmm"])):
        torch.manual_seed(0)
        sampled = decode(prompts, suppress=words, temperature=1.0)
        results.append(_score(f"sampled at temperature 1{name}", questions, sampled, None))
    return results


def base_figures(model: Any, tokenizer: Any, n: int = 320, *, max_new_tokens: int = _LIMIT) -> list[Figure]:
    """Accuracy of toy-base: as it comes, which is with traces, and made to answer at once by `answer`.

    >>> model, tokenizer = load(BUNDLED / "toy-base")
    >>> [figure.name for figure in base_figures(model, tokenizer, 2, max_new_tokens=1)]
    ['traces', 'direct answers']
    """
    questions = held_out_questions(n)
    results = []
    planted = partial(planted_answer, wait=False, hmm=False)
    for name, first, expected in (("traces", "", planted), ("direct answers", "answer", None)):
        begun = [f"{question.text} {first}".strip() for question in questions]
        new = complete(model, tokenizer, begun, max_new_tokens=max_new_tokens)
        results.append(_score(name, questions, [f"{first} {response}" for response in new], expected))
    return results


def fact_figures(model: Any, tokenizer: Any) -> list[Figure]:
    """What the model writes at each of the 300 facts, and after a forced `Wait`.

    >>> model, tokenizer = load(BUNDLED / "toy-reasoner")
    >>> [figure.n for figure in fact_figures(model, tokenizer)]
    [78, 222, 78, 222]
    """
    rng = Random(0)
    facts = list(fact_table().values())
    prefixes = []
    for entry in facts:
        ops = ((entry.op, entry.operand), *((rng.choice("+-*"), rng.randrange(10)) for _ in range(4)))
        sentence = f"Okay So A {entry.value} {entry.op} {entry.operand} {VERBS[0]}"
        prefixes.append(f"{Question(entry.value, ops).text} {sentence}")
    values = complete(model, tokenizer, prefixes, max_new_tokens=1)
    forced = complete(
        model, tokenizer, [f"{p} {f.slip} Wait" for p, f in zip(prefixes, facts, strict=True)], max_new_tokens=1
    )
    slips = [number for number, entry in enumerate(facts) if entry.kind != "ok"]
    right = [number for number, entry in enumerate(facts) if entry.kind == "ok"]

    def count(name: str, where: list[int], got: list[str], wanted: str) -> Figure:
        return Figure(name, sum(got[i] == str(getattr(facts[i], wanted)) for i in where), len(where))

    return [
        count("slip facts: the planted slip is written", slips, values, "slip"),
        count("other facts: the right value is written", right, values, "right"),
        count("slip facts: a forced Wait gives the true value", slips, forced, "right"),
        count("other facts: a forced Wait keeps the true value", right, forced, "right"),
    ]


def measure(folder: Path, n: int = 320) -> Mapping[str, list[Figure]]:
    """Every figure of a model folder, by the heading of its table; `training.json` says which model it is.

    >>> list(measure(BUNDLED / "toy-base", 1))
    ['held-out accuracy']
    """
    model, tokenizer = load(folder)
    if json.loads((folder / "training.json").read_text())["model"] == "toy-base":
        return {"held-out accuracy": base_figures(model, tokenizer, n)}
    return {
        "held-out accuracy": reasoner_figures(model, tokenizer, n),
        "planted mechanism": fact_figures(model, tokenizer),
    }


def tables(figures: Mapping[str, Sequence[Figure]]) -> str:
    """Figures as Markdown tables.

    >>> print(tables({"condition": [Figure("normal", 3, 4, as_planted=4)]}))
    | condition | % | 95 % interval | of n | as planted |
    |---|---|---|---|---|
    | normal | 75.0 | [30.1, 95.4] | 3 of 4 | 4 of 4 |
    """
    parts = []
    for heading, entries in figures.items():
        rows = [f"| {heading} | % | 95 % interval | of n | as planted |", "|---|---|---|---|---|"]
        for entry in entries:
            low, high = (100 * edge for edge in entry.interval)
            count = f"{entry.right} of {entry.n}"
            planted = "" if entry.as_planted is None else f"{entry.as_planted} of {entry.n}"
            rows.append(f"| {entry.name} | {100 * entry.share:.1f} | [{low:.1f}, {high:.1f}] | {count} | {planted} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure both models, print the tables, write JSON or the cards when asked."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.toys.evaluate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--n", type=int, default=320, help="held-out problems")
    parser.add_argument("--json", type=Path, help="file to write the counts to")
    parser.add_argument("--models", type=Path, default=BUNDLED, help="folder of toy-reasoner and toy-base")
    parser.add_argument("--cards", action="store_true", help="write the figures into both model cards")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    results: dict[str, Mapping[str, list[Figure]]] = {}
    for name in ("toy-reasoner", "toy-base"):
        results[name] = measure(options.models / name, options.n)
        print(f"\n{name}\n\n{tables(results[name])}")
        if options.cards:
            write_card(options.models / name, tables(results[name]))
    if options.json:
        content = {name: {k: [asdict(f) for f in v] for k, v in parts.items()} for name, parts in results.items()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
