"""The page of an attribution: who wrote what at the steps asked about, as a picture to move in.

Nodes are what each component wrote at a step, coloured by its share; what was measured beside it is its total effect.
Edges lead from each of them into what is measured, with the share as predicted and the direct effect as measured. Where
edges were asked for they are those of :func:`analyses.attribution.patch_edges`, from wherever they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.attribution import Circuit, EdgeEffects, node_name, node_parts
from analyses.trace.asked import Asked
from analyses.views.page import page
from interp.display import table, visible
from interp.errors import InputError
from interp.token_text import text_pieces, token_texts
from interp.writes import Writes, read_writes, readout_of

__all__ = ["circuit_of", "circuit_page"]

Tables = Mapping[str, pandas.DataFrame]

_SAID = 120  # nodes whose words are read, the strongest
_WORDS = 5
_CHUNK = 1 << 13  # tokens of the vocabulary at a time


def circuit_of(asked: Asked, tables: Tables) -> Circuit | None:
    """The circuit behind the run's own score at the steps, or behind the logits; None without shares.

    Of several measures the first is meant.
    """
    if "mi" in tables:
        shares, metric = tables["mi"], str(tables["mi"]["measure"].iloc[0])
        shares = shares[shares["measure"] == metric]
        target = node_name("residual", asked.layer)
        direct: Any = shares["direct"].to_numpy(dtype=float)
    elif "logits" in tables:
        shares = tables["logits"]
        shares = shares[shares["read_at"] == shares["read_at"].max()]
        metric = "logit of what is predicted" + ("" if asked.contrast is None else ", less the contrast's")
        target, direct = "logits", float("nan")
    else:
        return None
    first = len(asked.prompt_ids) - 1
    nodes = pandas.DataFrame(
        {
            "node": shares["component"].replace("pos_embed", "embed").to_numpy(dtype=object),
            "position": first + shares["step"].to_numpy(dtype=int),
            "score": shares["share"].to_numpy(dtype=float),
            "exact": shares["total"].to_numpy(dtype=float) if "mi" in tables else float("nan"),
            "direct": direct,
        }
    )
    nodes = nodes[[_is_node(name) for name in nodes["node"]]]  # what the readout adds is no node
    nodes = nodes.groupby(["node", "position"], sort=False).sum(min_count=1).reset_index()
    if "edges" in tables:
        edges = tables["edges"].drop(columns=["problem", "sample"], errors="ignore")
    else:
        edges = pandas.DataFrame(
            {
                "source": nodes["node"], "target": target, "port": "out", "source_position": nodes["position"],
                "position": nodes["position"], "score": nodes["score"], "exact": nodes["direct"],
            }
        )  # fmt: skip
    facts, name = asked.model.cfg, str(asked.run.settings["model"])
    return Circuit(
        nodes, edges, metric=metric, target=target, positions=_positions(asked),
        runs=({"problem": asked.trajectory.problem, "sample": asked.trajectory.sample, "steps": list(asked.steps)},),
        model={"name": name, "n_layers": int(facts.n_layers), "d_model": int(facts.d_model)},
    )  # fmt: skip


def circuit_page(asked: Asked, tables: Tables) -> str:
    """The page as text; empty where there is nothing to show."""
    circuit = circuit_of(asked, tables)
    if circuit is None:
        return ""
    trajectory = asked.trajectory
    steps = ", ".join(map(str, asked.steps[:8])) + (f" and {len(asked.steps) - 8} more" if len(asked.steps) > 8 else "")
    name = f"{'steps' if len(asked.steps) > 1 else 'step'} {steps}"
    view = circuit.show(words=_words(asked, circuit), attention=_attention(asked, tables, circuit))
    said = _said(asked, tables, circuit, name)
    parts: list[Any] = [*(f"<p>{escape(visible(sentence))}</p>" for sentence in said), view]
    if "mi_ends" in tables:
        ends = tables["mi_ends"]
        columns = ["step", "input_token", "token", "measure", "value", "reference_value", "difference", "missing"]
        parts.append(table(columns, ends[columns].itertuples(index=False), caption="What the shares sum to", limit=60))
    return page(f"What wrote {circuit.metric} at {name} of {trajectory.problem}", parts)


def _said(asked: Asked, tables: Tables, circuit: Circuit, steps: str) -> list[str]:
    trajectory = asked.trajectory
    where = f"{asked.run.settings['model']}, problem {trajectory.problem}, sample {trajectory.sample}, {steps}."
    if "mi" in tables:
        ends = tables["mi_ends"]
        told = dict.fromkeys(ends.loc[ends["measure"] == circuit.metric, "reference"])
        against = next(iter(told)) if len(told) == 1 else "a reference of each step's own"
        shares = (
            f"Nodes: each component's share of how far {circuit.metric} at layer {asked.layer} is from {against}; "
            "measured, where it was, by its total effect on it."
        )
    else:
        shares = f"Nodes: each component's share of the {circuit.metric}."
    if "edges" in tables:
        agreement = EdgeEffects(tables["edges"], {}).agreement
        edges = (
            "Edges: attribution patching against the mean of the response's ordinary steps, the strongest and a "
            f"random sample measured by path patching. {agreement}."
        )
    else:
        edges = f"Edges: the same shares on their way into {circuit.target}" + (
            "; measured, by the direct effect." if "mi" in tables else "."
        )
    return [where, shares, edges, "A share says what moved the number, not what the model uses."]


def _is_node(name: str) -> bool:
    try:
        return bool(node_parts(name))
    except InputError:
        return False


def _positions(asked: Asked) -> pandas.DataFrame:
    """What each position up to the last step has read; of steps also what they predict."""
    first, end = len(asked.prompt_ids) - 1, len(asked.prompt_ids) + max(asked.steps)
    ids = torch.cat([asked.prompt_ids, asked.token_ids])[: end + 1].tolist()
    words = text_pieces(asked.model.tokenizer, ids)
    places = range(end)
    return pandas.DataFrame(
        {
            "position": places,
            "step": pandas.array([p - first if p >= first else None for p in places], dtype="Int64"),
            "input_token": pandas.Series([words[p] for p in places], dtype=object),
            "token": pandas.Series([words[p + 1] if p >= first else "" for p in places], dtype=object),
        }
    )


def _attention(asked: Asked, tables: Tables, circuit: Circuit) -> pandas.DataFrame | None:
    """Where the heads with the largest shares look, at the steps."""
    if "mi_sources" not in tables or tables["mi_sources"].empty:
        return None
    rows = tables["mi_sources"]
    rows = rows[rows["measure"] == circuit.metric]
    return pandas.DataFrame(
        {
            "node": rows["component"],
            "position": len(asked.prompt_ids) - 1 + rows["step"],
            "source_position": rows["position"],
            "attention": rows["weight"],
        }
    )


def _words(asked: Asked, circuit: Circuit) -> pandas.DataFrame:
    """What the strongest nodes' writes say through the lens of the layer: tokens whose logit they raise most."""
    places = [[step] for step in asked.steps]
    writes: Writes = read_writes(asked.model, asked.prompt_ids.tolist(), asked.token_ids.tolist(), places)
    writes = writes.upto(asked.layer) if circuit.target != "logits" else writes
    place = {len(asked.prompt_ids) - 1 + step: n for n, step in enumerate(asked.steps)}
    number_of: dict[str, int] = {component.label: n for n, component in enumerate(writes.components)}
    nodes = circuit.nodes[circuit.nodes["score"].notna()].sort_values("score", key=abs, ascending=False, kind="stable")
    chosen = [
        (str(name), int(position))
        for name, position in zip(nodes["node"], nodes["position"], strict=True)
        if name in number_of and int(position) in place
    ][:_SAID]
    if not chosen:
        return pandas.DataFrame(columns=["node", "position", "token", "value"])
    vectors = torch.stack([writes.values[number_of[name], place[at]] for name, at in chosen])
    scale = writes.scale[[place[at] for _, at in chosen]]
    values, ids = _raised(asked, vectors / scale[:, None].to(vectors))
    tokens: Sequence[str] = token_texts(asked.model.tokenizer, ids.flatten().tolist())
    count = ids.shape[1]
    return pandas.DataFrame(
        {
            "node": [name for name, _ in chosen for _ in range(count)],
            "position": [at for _, at in chosen for _ in range(count)],
            "token": pandas.Series(list(tokens), dtype=object),
            "value": values.flatten().tolist(),
        }
    )


def _raised(asked: Asked, vectors: Float[Tensor, "node d_model"]) -> tuple[Tensor, Tensor]:
    """The tokens whose logits these raise most above the mean of all tokens, and by how much."""
    readout = readout_of(asked.model)
    logits = [
        vectors.to(readout.dtype) @ readout.directions(chunk).to(vectors.device).T
        for chunk in torch.arange(readout.d_vocab).split(_CHUNK)
    ]
    together = torch.cat(logits, dim=1)
    found = (together - together.mean(dim=1, keepdim=True)).topk(min(_WORDS, together.shape[1]), dim=1)
    return found.values.cpu(), found.indices.cpu()
