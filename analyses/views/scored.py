"""What views need of a scored response: anything with these members can be shown, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    import pandas

__all__ = ["Scored"]


@runtime_checkable
class Scored(Protocol):
    """Scores of one response, ``[layer, step]``; `analyses.trace.Trajectory` is one.

    Members as there: `tokens` and `token_ids` by step, which it predicts, and `input_tokens`, which it has just read;
    `mi` and `is_peak` by layer and step; `layers` names the rows,
    `site`, `problem`, `sample` and `measure` say of what. `row` finds a layer's row, `threshold` is what peaks
    exceed, `only` keeps some layers, `to_frame` gives one row a (layer, step).
    """

    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def input_tokens(self) -> Sequence[str]: ...
    @property
    def token_ids(self) -> Tensor: ...
    @property
    def mi(self) -> Tensor: ...
    @property
    def is_peak(self) -> Tensor: ...
    @property
    def layers(self) -> Sequence[int]: ...
    @property
    def site(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def sample(self) -> int: ...
    @property
    def measure(self) -> str: ...

    def row(self, layer: int = -1) -> int: ...

    def threshold(self, layer: int = -1) -> float: ...

    def only(self, layers: list[int]) -> Scored: ...

    def to_frame(self) -> pandas.DataFrame: ...
