"""Where a response ends and the model goes on to ask itself another question."""

from __future__ import annotations

import re

__all__ = ["one_turn"]

_TURN = re.compile(
    r"<\|im_start\|>\s*(?:user|system)|<\|(?:user|start_header_id)\|>|<start_of_turn>\s*user|<\|start\|>\s*user|<｜User｜>"
    r"|\[INST\]|<\|endoftext\|>|<\|end_of_text\|>|</s>|<｜end▁of▁sentence｜>"
)
_HEAD = r"\n[ \t]*(?:[#>*]{1,6}[ \t]*)*"
_NUMBERED = r"[ \t]*(?:[0-9]{1,4}|\([0-9a-z]\))?[ \t]*\**"
_ASKED = r"[ \t]*[:.][ \t*]*(?=\S|\n[ \t]*\S)"
_QUESTION = re.compile(
    rf"{_HEAD}(?:(?:(?:Next|New|Follow-?up|Another)[ \t]+)?[Qq]uestion|Q|Human|User){_NUMBERED}{_ASKED}"
    rf"|{_HEAD}Question[ \t]+[0-9]{{1,4}}[ \t*]*\n|\n[ \t]*(?:Answer|Solve) the following"
)
# These begin a part of a solution as well: only after an answer do they begin another question
_PROBLEM = re.compile(rf"{_HEAD}(?:Problem|Exercise|Example|Instruction|Input|Task){_NUMBERED}(?:{_ASKED}|[ \t]*\n)")
_ANSWERED = re.compile(r"\banswer|boxed|####|\btherefore\b", re.IGNORECASE)


def one_turn(text: str) -> str:
    r"""A response without the next question that the model goes on to ask itself.

    >>> one_turn("The answer is 18.\n\nQuestion: How many?\nThe answer is 5."), one_turn("Question: How many? 5")
    ('The answer is 18.\n', 'Question: How many? 5')
    """
    for pattern in (_TURN, _QUESTION, _PROBLEM):
        for mark in pattern.finditer(text):
            before = text[: mark.start()]
            # A response may begin by saying the question once more: an answer stands before the next one
            answered = pattern is not _PROBLEM or _ANSWERED.search(before)
            if answered and re.search(r"[0-9A-Za-z]", before) and not _restates(before):
                text = before
                break
    return text


def _restates(before: str) -> bool:
    """Whether what stands before a question is but an opening, "Let me restate the problem."."""
    return len(before) < 200 and re.search(r"[0-9]", before) is None and _ANSWERED.search(before) is None
