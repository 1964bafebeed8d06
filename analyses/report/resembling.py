"""What peaks resemble, and whether they are about this answer: numbers and sentences for the page and the terminal.

1. `resemblances` adds up the counts of peaks.parquet (:mod:`analyses.trace.likeness`) layer by layer, with intervals
   that have problems as clusters.
2. A layer is *explained* where nearly all peaks have just read a token of the kind that the reference ends on, and all
   steps clearly less often: then its peaks say which token was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.stats import Estimate, proportion
from analyses.stats.association import FEWEST_PROBLEMS
from analyses.views.wording import percent, plain, several

if TYPE_CHECKING:
    import pandas

__all__ = [
    "ENDS",
    "OTHERS_ARE",
    "Resemblance",
    "excess_sentence",
    "explained_sentence",
    "resemblance_facts",
    "resemblance_frame",
    "resemblances",
]

NEARLY_ALL = 0.9
ENDS = {"last": "ends on", "predicts": "was read at"}
"""What a reference does with the token that its stream has just read, by where it is read."""
OTHERS_ARE = {"last": "end on the same kind of token", "predicts": "begin their answer with the same kind of token"}
"""How references of other answers are like the own one, by where they are read."""
_KINDS = {
    "digit": "a digit", "number": "a number", "letter": "a letter", "word": "a word", "stop": "a full stop",
    "punctuation": "a punctuation mark", "TeX": "a token of TeX", "mixed": "a token of letters and signs",
    "space": "white space", "special": "a special token",
}  # fmt: skip


@dataclass(frozen=True)
class Resemblance:
    """The peaks of a layer over all responses.

    Attributes:
        peaks, steps: how many, over the responses that say where their reference ends.
        after_kind: share of peaks right after a token of the kind that the reference ends on; None without peaks.
        steps_after_kind: the same share of all steps.
        after_token, steps_after_token: likewise after the very token; NaN without peaks.
        as_high_at_peaks, as_high: share of other answers' references that score at least as high as the own one, mean
            over peaks and over all steps; NaN where nothing was scored beside others.
        excess_peaks, excess_after_kind: peaks of the standardised excess, and those after a token of that kind; None
            likewise.
    """

    layer: int
    peaks: int
    steps: int
    after_kind: Estimate | None
    steps_after_kind: float
    after_token: float
    steps_after_token: float
    as_high_at_peaks: float
    as_high: float
    excess_peaks: int | None
    excess_after_kind: int | None

    @property
    def explained(self) -> bool:
        """Whether nearly all peaks follow that kind of token, and clearly more often than any step does."""
        share = self.after_kind
        return share is not None and share.estimate >= NEARLY_ALL and share.low > self.steps_after_kind


def resemblances(peaks: pandas.DataFrame) -> list[Resemblance]:
    """One for each layer of a run's peaks.parquet; none where the run does not say where references end.

    >>> import pandas
    >>> counts = {"n_steps": [50, 50], "n_peaks": [4, 6], "n_after_token": [5, 5], "n_peaks_after_token": [2, 3],
    ...           "n_after_kind": [10, 10], "n_peaks_after_kind": [4, 6]}
    >>> found = resemblances(pandas.DataFrame({"problem": ["a", "b"], "layer": 3, **counts}))[0]
    >>> found.after_kind.estimate, found.steps_after_kind, found.explained
    (1.0, 0.2, True)
    """
    if "n_after_kind" not in peaks.columns:
        return []
    known = peaks[peaks["n_after_kind"].notna()]
    layers = sorted(map(int, known["layer"].unique()))
    return [_of_layer(layer, known[known["layer"] == layer]) for layer in layers]


def _of_layer(layer: int, part: pandas.DataFrame) -> Resemblance:
    total = part.sum(numeric_only=True)
    peaks, steps = int(total["n_peaks"]), int(total["n_steps"])
    scored = part[part["as_high"].notna()] if "as_high" in part.columns else part.iloc[:0]
    at_peaks = scored[scored["n_peaks"] > 0]
    return Resemblance(
        layer, peaks, steps, _after_kind(part) if peaks else None, float(total["n_after_kind"] / steps),
        float(total["n_peaks_after_token"] / peaks) if peaks else float("nan"),
        float(total["n_after_token"] / steps),
        _mean(at_peaks, "as_high_at_peaks", "n_peaks"), _mean(scored, "as_high", "n_steps"),
        int(scored["n_excess_peaks"].sum()) if len(scored) else None,
        int(scored["n_excess_peaks_after_kind"].sum()) if len(scored) else None,
    )  # fmt: skip


def _after_kind(part: pandas.DataFrame) -> Estimate:
    """Peak by peak, so that the interval knows which belong to one problem."""
    after = part["n_peaks_after_kind"].to_numpy(dtype=int)
    other = part["n_peaks"].to_numpy(dtype=int) - after
    problems = part["problem"].astype(str).to_numpy()
    labels = np.concatenate([np.repeat(problems, after), np.repeat(problems, other)])
    return proportion(np.repeat([1.0, 0.0], [after.sum(), other.sum()]), labels)


def resemblance_frame(peaks: pandas.DataFrame) -> pandas.DataFrame:
    """A row a layer: the fields of :class:`Resemblance`, the share after that kind with its interval (Wilson, 95 %)."""
    import pandas

    rows = []
    for one in resemblances(peaks):
        share, nan = one.after_kind, float("nan")
        rows.append({
            "layer": one.layer, "peaks": one.peaks, "steps": one.steps,
            "after_kind": share.estimate if share else nan,
            "after_kind_low": share.low if share else nan, "after_kind_high": share.high if share else nan,
            "steps_after_kind": one.steps_after_kind, "after_token": one.after_token,
            "steps_after_token": one.steps_after_token, "as_high_at_peaks": one.as_high_at_peaks,
            "as_high": one.as_high, "excess_peaks": one.excess_peaks, "excess_after_kind": one.excess_after_kind,
        })  # fmt: skip
    return pandas.DataFrame(rows)


def _mean(part: pandas.DataFrame, column: str, weights: str) -> float:
    return float(np.average(part[column], weights=part[weights])) if len(part) else float("nan")


def resemblance_facts(peaks: pandas.DataFrame, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same as JSON-able data; ``asked`` is what the run pins of its other references."""
    found = resemblances(peaks)
    if not found:
        return {}
    facts: dict[str, Any] = {
        "reference_kinds": _kinds(peaks),
        "layers": [_plain(asdict(one)) for one in found],
        "explained": [one.layer for one in found if one.explained],
    }
    if asked:
        others = peaks.drop_duplicates(["problem", "sample"])["n_others"].dropna()
        facts["others"] = {
            "references": asked["references"],
            "responses": len(others),
            "fewer": int((others < asked["references"]).sum()),
            "undefined": int((others < 2).sum()),
        }
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return None if isinstance(value, float) and value != value else value


def _kinds(peaks: pandas.DataFrame) -> dict[str, int]:
    """How many responses have a reference that ends on each kind."""
    counts = peaks.drop_duplicates(["problem", "sample"])["reference_kind"].value_counts()
    return {str(kind): int(count) for kind, count in counts.items()}


def _ends_on(kinds: Mapping[str, int], position: str) -> tuple[str, str]:
    """What such a step has just read, and what to call the kind."""
    if len(kinds) == 1:
        name = _KINDS.get(next(iter(kinds)), "a token")
        return name, f"{name}, as their references {'end on' if position == 'last' else 'were read at'}"
    listed = ", ".join(f"{_KINDS.get(kind, kind)} {count} times" for kind, count in kinds.items())
    return (
        f"a token of the kind that their reference {ENDS[position]}",
        f"a token of the kind that their reference {ENDS[position]} ({listed})",
    )


def explained_sentence(peaks: pandas.DataFrame, position: str = "last") -> str:
    """That what peaks have just read explains them, where it does; else the empty text.

    ``position`` is where the run's references are read.
    """
    found = resemblances(peaks)
    layers = [one for one in found if one.explained]
    if not layers:
        return ""
    where = "At every layer" if len(layers) == len(found) else f"At {_listed([one.layer for one in layers])}"
    shown, kind = layers[-1], _ends_on(_kinds(peaks), position)[1]
    return (
        f"{where} nearly all peaks have just read {kind}: {_share(shown, peaks)}. "
        f"{'Its' if len(layers) == 1 else 'Their'} peaks show which kind of token was read; whether they are about the "
        "answer is another question."
    )


def _share(one: Resemblance, peaks: pandas.DataFrame) -> str:
    assert one.after_kind is not None
    interval = ""
    if peaks["problem"].nunique() >= FEWEST_PROBLEMS:
        interval = f" [{percent(one.after_kind.low)}, {percent(one.after_kind.high)}]"
    return (
        f"{percent(one.after_kind.estimate)}{interval} of the {several(one.peaks, 'peak')} of layer {one.layer}, and "
        f"{percent(one.steps_after_kind)} of all steps"
    )


def excess_sentence(
    peaks: pandas.DataFrame, asked: Mapping[str, Any] | None, layer: int, position: str = "last"
) -> str:
    """What the peaks of a layer resemble, and how other answers score there."""
    found = {one.layer: one for one in resemblances(peaks)}
    if layer not in found:
        return ""
    one, text = found[layer], ""
    if one.after_kind is not None:
        text = f"Right after {_ends_on(_kinds(peaks), position)[0]}: {_share(one, peaks)}. "
    if not asked:
        return text.strip()
    others = resemblance_facts(peaks, asked)["others"]
    if one.after_kind is not None and one.as_high_at_peaks == one.as_high_at_peaks:
        text += (
            f"At these peaks {percent(one.as_high_at_peaks)} of {others['references']} other answers' references score "
            f"at least as high as the own one (anywhere {percent(one.as_high)}; one like the others would have 50 %). "
        )
    if one.excess_peaks is not None:
        are = "is a peak" if one.excess_peaks == 1 else "are peaks"
        text += (
            f"{several(one.excess_peaks, 'step')} {are} of the excess over these references, in units of their spread. "
        )
    if others["fewer"]:
        text += (
            f"{others['fewer']} of {several(others['responses'], 'response')} had fewer than {others['references']}, "
            f"as the pool holds no more that {OTHERS_ARE[position]}; {plain(others['undefined'])} too few for a spread."
        )
    return text.strip()


def _listed(layers: list[int]) -> str:
    """Layers by their numbers, neighbours together.

    >>> _listed([4]), _listed([0, 1, 2, 5, 6, 9])
    ('layer 4', '6 layers (0 to 2, 5, 6, 9)')
    """
    if len(layers) == 1:
        return f"layer {layers[0]}"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    told = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"{len(layers)} layers ({', '.join(told)})"
