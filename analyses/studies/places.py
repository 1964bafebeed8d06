"""Places: steps of responses of different lengths, named so that they can be compared across problems.

1. `relative`: at a share of the response (0 is its first step, 1 its last).
2. `end`: so many steps before the last.
3. `event`: so many steps before or after the k-th token of a kind, such as the k-th thinking token.

A response that is too short, or has fewer such tokens, lacks a place: its step is -1 there, and it is left out there
and only there. A place that more steps share than one (short responses, many points) is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.errors import InputError

__all__ = ["ALIGNMENTS", "Place", "places_of", "steps_at"]

ALIGNMENTS = ("relative", "end", "event")


@dataclass(frozen=True)
class Place:
    """A place that every response may have.

    >>> Place("event", -2.0, 1)
    Place(alignment='event', at=-2.0, event=1)

    Attributes:
        alignment: relative, end or event.
        at: a share of the response, or steps (of ``end``: 0 is the last, -1 the one before).
        event: which of the tokens, from 1; 0 where the alignment is another.
    """

    alignment: str
    at: float
    event: int = 0


def places_of(
    alignments: Sequence[str], points: int = 11, last: int = 8, events: Sequence[int] = (1,), window: int = 4
) -> list[Place]:
    """The places of some alignments, in order.

    >>> [place.at for place in places_of(["relative"], points=3)]
    [0.0, 0.5, 1.0]
    >>> len(places_of(["end", "event"], last=4, events=(1, 2), window=1))
    10

    Raises `InputError` for an unknown alignment or nothing to look at.
    """
    unknown = [name for name in alignments if name not in ALIGNMENTS]
    if unknown or not alignments or points < 2 or last < 1 or window < 0 or min(events, default=1) < 1:
        raise InputError(
            "places",
            expected=f"alignments among {', '.join(ALIGNMENTS)}, points >= 2, last >= 1, window >= 0, events from 1",
            received=f"{list(alignments)}, points={points}, last={last}, window={window}, events={list(events)}",
            remedy="For example align=relative,event.",
        )
    found: list[Place] = []
    if "relative" in alignments:
        found += [Place("relative", k / (points - 1)) for k in range(points)]
    if "end" in alignments:
        found += [Place("end", float(k)) for k in range(1 - last, 1)]
    if "event" in alignments:
        found += [Place("event", float(k), event) for event in events for k in range(-window, window + 1)]
    return found


def steps_at(places: Sequence[Place], n_steps: int, events: Sequence[int]) -> list[int]:
    """The step of each place in a response, -1 where it has none; ``events`` are the steps of the tokens that count.

    >>> steps_at(places_of(["relative", "end", "event"], points=2, last=2, window=1), 5, events=[4])
    [0, 4, 3, 4, 3, 4, -1]
    """
    steps = []
    for place in places:
        if place.alignment == "relative":
            step = round(place.at * (n_steps - 1))
        elif place.alignment == "end":
            step = n_steps - 1 + int(place.at)
        else:
            step = events[place.event - 1] + int(place.at) if place.event <= len(events) else -1
        steps.append(step if 0 <= step < n_steps else -1)
    return steps
