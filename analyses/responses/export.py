"""What other engines are given, and what is read again: prompts as text and token ids, responses with their tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.problems import Problem
from analyses.responses.folders import run_rows
from analyses.store.atomic import replacing
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.foreign import decode_text
from interp.prompts import Prompt, encode_prompt

__all__ = ["export_prompts", "export_responses"]


def export_prompts(
    problems: Sequence[tuple[Problem, Prompt]], tokenizer: Any, facts: ModelFacts, out: str | Path
) -> tuple[int, int]:
    """Write the prompt of each problem, one JSON object a line: id, question, solution, answer, prompt, token ids.

    ``prompt`` is the text of the ids, special tokens written out; an engine that tokenises it without adding any gets
    ``prompt_token_ids``, unless the row says ``"text_is_exact": false``.

    Returns:
        How many were written, and how many of them are exact as text.

    Raises:
        InputError: a prompt that the model cannot read, or a disk that refuses; nothing is written then.
    """
    rows: list[dict[str, Any]] = []
    for problem, prompt in problems:
        ids = encode_prompt(tokenizer, prompt, facts, "export prompts")
        text = decode_text(tokenizer, ids) if tokenizer is not None else ""
        exact = bool(text) and list(tokenizer(text, add_special_tokens=False)["input_ids"]) == ids
        row = {
            "id": problem.id, "question": problem.question, "solution": problem.solution, "answer": problem.answer,
            "prompt": text, "prompt_token_ids": ids, "text_is_exact": exact,
        }  # fmt: skip
        rows.append(row)
    _write(Path(out), rows, "export prompts")
    return len(rows), sum(bool(row["text_is_exact"]) for row in rows)


def export_responses(
    run: str | Path, out: str | Path, problems: Mapping[str, Problem] | None = None
) -> tuple[int, int]:
    """Write the responses of a trace's run folder, one JSON object a line, with the tokens of prompt and response.

    Args:
        problems: by id; for the solutions that a run of an earlier version does not keep.

    Returns:
        How many were written, and how many of them have their solution beside them.
    """
    rows = []
    for _, one in run_rows(Path(run)):
        problem = (problems or {}).get(one.id or "")
        row = {
            "id": one.id, "sample": one.sample, "question": one.question or (problem.question if problem else ""),
            "solution": one.solution or (problem.solution if problem else ""),
            "answer": one.answer or (problem.answer if problem else ""), "text": one.text,
            "prompt_token_ids": list(one.prompt_ids or ()), "token_ids": list(one.token_ids or ()),
            "finish_reason": one.finish,
        }  # fmt: skip
        rows.append({name: value for name, value in row.items() if value not in (None, "")})
    _write(Path(out), rows, "export responses")
    return len(rows), sum("solution" in row for row in rows)


def _write(out: Path, rows: Sequence[Mapping[str, Any]], operation: str) -> None:
    try:
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        received = f"{out} ({error.strerror or error})"
        raise InputError(
            operation, expected="a file that can be written", received=received, remedy="Choose another."
        ) from error
