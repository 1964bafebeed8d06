"""Runs whose tables are made of given scores, and how a browser is asked what their report shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from analyses.store import Run
from analyses.trace.trajectory import peaks_where_defined
from interp.errors import InputError
from probes import peak_statistics

NASTY = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1><!-- \"'&lt;$$x$$"
HOSTILE = [
    "</script>", "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "<!--", "]]>", "{{",
    "&lt;b&gt;", "\u202e", "\x01", "\u2028", "\n", '"', "'", "$$x$$", "@value{safe}", "a" * 3000, "\ufeff",
    "<svg onload=window.pwned=1>",
]  # fmt: skip
SETTINGS = {
    "model": "tiny", "dtype": "float32", "layers": [0, 1], "samples": [0], "problems": {}, "max_new_tokens": 256,
    "prompt": "raw", "reference": "solution", "site": "resid_post", "temperature": 0.0, "top_p": 1.0, "seed": 0,
    "sigma": 50.0, "eps": 1e-5, "drop_top": 0, "tau": 1.5,
}  # fmt: skip
PROVENANCE = {"model": {"kind": "folder", "revision": None, "weight_hash": "ab" * 32}, "versions": {"torch": "2.13.0"}}


def made_run(
    folder: Path, scores: dict[str, np.ndarray], tokens: dict[str, list[str]], *, layers: Sequence[int] | None = None,
    statuses: Sequence[str] | None = ("correct", "wrong"), text: str = "What is 1 + 1?", settings: Any = None,
    rows_in_group: int = 1_000_000,
) -> Run:  # fmt: skip
    """A run whose tables are made of these scores ``[layer, step]``, by problem."""
    count = len(next(iter(scores.values())))
    numbers = list(range(count)) if layers is None else list(layers)
    options = SETTINGS | {"layers": numbers, "problems": dict.fromkeys(scores, "00")} | (settings or {})
    run = Run.start(folder, kind="trace", settings=options, provenance=PROVENANCE)
    long, statistics, words, responses = [], [], [], []
    for place, (problem, mi) in enumerate(scores.items()):
        steps = mi.shape[1]
        peaks = peaks_where_defined(torch.from_numpy(mi)).numpy()
        keys = {"problem": problem, "sample": 0}
        long.append(
            pandas.DataFrame(
                {
                    **keys, "layer": np.repeat(numbers, steps), "site": "resid_post",
                    "step": np.tile(range(steps), count), "token_id": 0, "token": tokens[problem] * count,
                    "mi": mi.reshape(-1), "is_peak": peaks.reshape(-1),
                }
            )
        )  # fmt: skip
        for layer, row, marked in zip(numbers, mi, peaks, strict=True):
            defined = np.isfinite(row)
            if not defined.any():
                defined, row = ~defined, np.zeros(steps)
            facts = peak_statistics(torch.from_numpy(row[defined])[None], torch.from_numpy(marked[defined])[None])
            one = {name: values[0] for name, values in facts.to_dict().items()}
            statistics.append({**keys, "layer": layer, "site": "resid_post", **one, "n_steps": steps})
            found = [tokens[problem][step].strip() for step in np.flatnonzero(marked)]
            words += [(layer, word) for word in found if re.fullmatch("[A-Za-z]+", word)]
        status = statuses[place % len(statuses)] if statuses else ""
        responses.append(
            {
                **keys, "question": text, "gold": text, "text": "".join(tokens[problem]), "n_steps": steps,
                "finish_reason": "eos", "extracted": text, "reason": "boxed", "status": status,
                "correct": {"correct": True, "wrong": False, "no_answer": False}.get(status),
            }
        )  # fmt: skip
    counted = pandas.Series(words, dtype=object).value_counts()
    listed = [(layer, "resid_post", word, int(n), 0.0, "0") for (layer, word), n in counted.items()]
    columns = ["layer", "site", "word", "count", "share", "token_ids"]
    run.write_table(
        "tokens.csv",
        pandas.DataFrame(listed, columns=columns).sort_values(
            ["layer", "count"], ascending=[True, False], ignore_index=True
        ),
    )
    run.write_table("peaks.parquet", pandas.DataFrame(statistics))
    whole = pandas.concat(long, ignore_index=True)
    if rows_in_group < len(whole):
        import pyarrow

        table = pyarrow.Table.from_pandas(whole)
        with run.table_writer("mi.parquet", table.schema) as writer:
            writer.write_table(table, row_group_size=rows_in_group)
    else:
        run.write_table("mi.parquet", whole)
    if statuses:
        frame = pandas.DataFrame(responses).astype({"correct": "boolean"})
        run.write_table("responses.parquet", frame)
    return run


def noise(layers: int, steps: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random((layers, steps)) * 0.2 + 0.1
    values[:, ::9] += 1.0
    return values


READY = "() => document.querySelectorAll('.rp-plot').length === Bokeh.documents.length"
MODELS = """(name) => {
  const found = Bokeh.documents.map((d) => d.get_model_by_name(name)).filter((m) => m !== null)[0];
  return Object.fromEntries(Object.entries(found.data).map(([k, v]) => [k, Array.from(v, (x) => Number.isNaN(x) ? null :
    (x && x.length !== undefined && typeof x !== "string" ? Array.from(x, (y) => Number.isNaN(y) ? null : y) : x))]));
}"""


# The figures in the order of the page: where the k-th has its frame, scrolled into sight.
PLOTS = """
  const plots = [], walk = (view) => view.frame ? plots.push(view) : (view.child_views || []).forEach(walk);
  Array.from(Bokeh.index).forEach(walk);
"""
FRAME = f"""(k) => {{ {PLOTS} const view = plots[k], inner = view.frame.bbox;
  view.el.scrollIntoView({{block: "center"}});
  const box = view.el.getBoundingClientRect();
  return [box.x + inner.left, box.y + inner.top, inner.width, inner.height];
}}"""
# Where the dots of the third figure are on the screen.
DOTS = f"""() => {{ {PLOTS} const view = plots[2], box = view.el.getBoundingClientRect();
  const data = view.model.document.get_model_by_name("groups").data;
  return data.x.map((x, k) => [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(data.y[k])]);
}}"""


def ready(tab: Any) -> None:
    tab.wait_for_function(READY)
    tab.wait_for_timeout(200)


def model(tab: Any, name: str) -> dict[str, list[Any]]:
    """The columns of a figure's data, as the browser has them."""
    return tab.evaluate(MODELS, name)


def rows_of(tab: Any, selector: str) -> list[list[dict[str, str]]]:
    """The cells of a table: text and exact value."""
    return tab.eval_on_selector_all(
        f"{selector} tbody tr",
        "rows => rows.map(r => Array.from(r.children, c => ({text: c.textContent.trim(), ...c.dataset})))",
    )


def shown(number: str) -> float:
    return float(re.sub(r"[\u202f %]", "", number)) / (100 if "%" in number else 1)


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)
    return str(caught.value)
