"""What a peak resembles: whether the step has just read what the reference ends on, and whether others score as high.

1. The reference is read to its last token, and so is a response's text at each step: its *input token* is the last
   prompt token at step 0, then the token chosen the step before. A peak after a token like the reference's last one may
   be high for that alone.
2. `Likeness` counts, for each response and layer, the steps and peaks after the very token that the reference ends on,
   and after one of its kind (:func:`analyses.token_kinds.token_kind`).
3. Where the response was scored beside other answers' references (:mod:`analyses.trace.others`), the share of these
   that score at least as high as the own one, at peaks and anywhere: one half is what an answer like the others has.

Columns of peaks.parquet: reference_token, reference_kind; n_after_token, n_after_kind (steps), n_peaks_after_token,
n_peaks_after_kind; with the excess n_others, n_excess_peaks, n_excess_peaks_after_kind, as_high and as_high_at_peaks
(shares; NaN without others, or without peaks). Runs of versions that did not keep where the reference ends have them
empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from analyses.store.run import CellData
from analyses.token_kinds import token_kinds
from interp.token_text import token_texts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Likeness", "likeness_schema"]

_TEXTS = ("reference_token", "reference_kind")
_COUNTS = ("n_after_token", "n_after_kind", "n_peaks_after_token", "n_peaks_after_kind")
_EXCESS_COUNTS = ("n_others", "n_excess_peaks", "n_excess_peaks_after_kind")
_SHARES = ("as_high", "as_high_at_peaks")


def likeness_schema(asked_excess: bool) -> list[tuple[str, pa.DataType]]:
    """Names and types of the columns.

    >>> [name for name, _ in likeness_schema(False)][:3]
    ['reference_token', 'reference_kind', 'n_after_token']
    """
    import pyarrow as pa

    return [
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.int64()) for name in (*_COUNTS, *(_EXCESS_COUNTS if asked_excess else ()))),
        *((name, pa.float64()) for name in _SHARES if asked_excess),
    ]


class Likeness:
    """Counts what steps and peaks have just read, response by response."""

    def __init__(self, tokenizer: Any, asked_excess: bool) -> None:
        self.tokenizer, self.asked_excess = tokenizer, asked_excess
        self.kinds: dict[int, str] = {}

    def columns(
        self, data: CellData, peaks: Bool[Tensor, "layer step"], excess_peaks: Bool[Tensor, "layer step"] | None
    ) -> dict[str, list[Any]]:
        """The columns of one response: one entry a layer."""
        layers = len(peaks)
        found: dict[str, list[Any]] = {name: [None] * layers for name, _ in likeness_schema(self.asked_excess)}
        end, after_kind = data.payload.get("reference_end"), None
        if end is not None:
            inputs = torch.cat([data.tensors["prompt_ids"][-1:], data.tensors["token_ids"][:-1]]).long()
            kinds = self._kinds([end, *inputs.tolist()])
            after_token, after_kind = inputs == end, torch.tensor([kind == kinds[0] for kind in kinds[1:]])
            found["reference_token"] = token_texts(self.tokenizer, [end]) * layers
            found["reference_kind"] = [kinds[0]] * layers
            for name, after in (("token", after_token), ("kind", after_kind)):
                found[f"n_after_{name}"] = [int(after.sum())] * layers
                found[f"n_peaks_after_{name}"] = (peaks & after).sum(dim=1).tolist()
        if excess_peaks is None or "excess:as_high" not in data.tensors:
            return found
        others = len(data.payload["excess_problems"])
        found["n_others"] = [others] * layers
        found["n_excess_peaks"] = excess_peaks.sum(dim=1).tolist()
        if after_kind is not None:
            found["n_excess_peaks_after_kind"] = (excess_peaks & after_kind).sum(dim=1).tolist()
        share = data.tensors["excess:as_high"]  # NaN without others
        found["as_high"] = share.mean(dim=1).tolist()
        at_peaks = torch.where(peaks, share, 0.0).sum(dim=1) / peaks.sum(dim=1)  # 0 / 0 without peaks
        found["as_high_at_peaks"] = at_peaks.tolist()
        return found

    def _kinds(self, ids: list[int]) -> list[str]:
        new = [token for token in dict.fromkeys(ids) if token not in self.kinds]
        self.kinds |= dict(zip(new, token_kinds(self.tokenizer, new), strict=True))
        return [self.kinds[token] for token in ids]
