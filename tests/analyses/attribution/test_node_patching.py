"""Patched nodes against a literal loop of plain Hugging Face edits, and estimates against plain autograd."""

from __future__ import annotations

import families as F
import plain_edits as P
import pytest
import torch
from references import MODELS

from analyses.attribution import patch_nodes
from interp import logit_difference

METRIC = logit_difference(5, 6)


def two_texts(name: str, length: int = 9) -> tuple[list[int], list[int]]:
    """Two texts of one length that differ at two positions."""
    clean = [7, 12, 5, 30, 9, 41, 8, 11, 13][:length]
    corrupt = list(clean)
    corrupt[2], corrupt[5] = 6, 17
    return clean, corrupt


def difference(logits: torch.Tensor) -> float:
    return float((logits[-1, 5] - logits[-1, 6]).detach())


@pytest.mark.parametrize("name", MODELS)
def test_exact_and_estimated_effects_are_those_of_plain_hugging_face(name: str) -> None:
    hf, model = F.pair(name, torch.float64)
    clean, corrupt = two_texts(name)
    found = patch_nodes(model, clean, corrupt, METRIC, positions=[2, 6, 8], verify="all", sample=0)

    _, new = P.values(hf, clean)
    logits, old = P.values(hf, corrupt)
    assert found.settings["corrupt"] == pytest.approx(difference(logits), abs=1e-9)
    slopes = dict(zip(old, torch.autograd.grad(logits[-1, 5] - logits[-1, 6], list(old.values())), strict=True))
    seen = []
    for row in found.table.itertuples():
        head = None if row.kind != "head" else row.head
        at = (row.kind, row.layer), (0, row.position) if head is None else (0, row.position, head)
        value = new[at[0]][at[1]].detach()
        patched = P.with_node(hf, corrupt, (row.kind, row.layer, head), row.position, value)
        assert row.exact == pytest.approx(difference(patched) - difference(logits), abs=1e-8), row.node
        slope = slopes[at[0]][at[1]]
        assert row.score == pytest.approx(float(slope @ (value - old[at[0]][at[1]].detach())), abs=1e-8), row.node
        seen.append(abs(row.exact))
    layers = len(old) // 3
    assert len(seen) == 3 * layers * (P.heads(hf) + 2)
    assert max(seen) > 1e-3
    everything = found.table.query("node == 'L0 resid_pre' and position == 2").iloc[0]
    assert everything["exact_share"] != 0
