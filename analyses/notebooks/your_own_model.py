# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Your own model
#
# From a model's name to a report: load it, give it your problems, trace it into a run folder, look at it, and
# score it with a probe of your own.
#
# As it stands the notebook runs with the bundled toy, in seconds. For another model set `PEAKLENS_NOTEBOOK_MODEL`
# before you start it, or change the name below.

# %%
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import peaklens as pl
import torch

# %%
from analyses.report import write_report
from analyses.store import Run
from analyses.trace.trajectory import trajectories

# %% [markdown]
# ## Which model?
#
# | name | what it is |
# |---|---|
# | `toy-reasoner`, `toy-base` | bundled |
# | `smollm2-135m-instruct` | pulled once by `peaklens models pull smollm2-135m-instruct` |
# | `path/to/folder` | made by `save_pretrained`: config, tokenizer, safetensors |
# | `path/to/model.gguf` | a GGUF file, dequantised |
# | `Qwen/Qwen3-0.6B` | an id of the Hugging Face hub |
#
# A model you have already loaded goes in as `load_model("label", hf_model=model, tokenizer=tokenizer)`. Only
# safetensors are read, and no code that comes with a model is run.

# %%
name = os.environ.get("PEAKLENS_NOTEBOOK_MODEL", "toy-reasoner")
model, toy = pl.load_model(name), name.startswith("toy-")
way = "chat" if model.tokenizer.chat_template else "raw"
print(f"{Path(name).name}: {model.cfg.n_layers} layers of width {model.cfg.d_model}, prompts: {way}")
views = pl.views
views.load()

# %% [markdown]
# What you have is an ordinary TransformerLens bridge; hooks of your own work on it as they always do. `chat` puts a
# question into the model's chat template, `raw` leaves it as it is.
#
# ## Which problems?
#
# A file with a question and a solution or an answer in each row. JSONL, JSON, CSV and Parquet are read; GSM8K,
# MATH-500 and AIME files are recognised.

# %%
rows = [
    ("pens", "Tom has 3 boxes of 4 pens and gives 5 away. How many are left?", "3*4-5 = 7"),
    ("train", "A train runs 60 km in an hour. How far in 3 hours?", "60*3 = 180"),
    ("odds", "What is the sum of the first four odd numbers?", "1+3+5+7 = 16"),
]
keys = ("id", "question", "solution", "answer")
lines = [json.dumps(dict(zip(keys, (*row, row[-1].split()[-1]), strict=True))) for row in rows]
Path("my_problems.jsonl").write_text("\n".join(lines), encoding="utf-8")
mine = pl.load_problems("my_problems.jsonl")
pd.DataFrame(map(asdict, mine))

# %% [markdown]
# The toy reads no English; it gets the problems that are bundled with it.

# %%
n = int(os.environ.get("PEAKLENS_NOTEBOOK_PROBLEMS", "40"))
problems = pl.bundled_problems(n) if toy else mine
print(f"{len(problems)} problems; the first: {problems[0].question}")

# %% [markdown]
# ## Trace it
#
# Each problem is answered and each (layer, step) scored by nHSIC against the last token of the gold solution.
# Everything goes into a folder as it is finished: run the same cell again and it goes on where it was stopped, with
# more problems it extends the run, and other settings are refused.

# %%
folder = Path("my_runs", Path(name).name)
run = pl.trace(model, problems, out=folder, max_new_tokens=120, batch_size=8, prompt=way)
Run.open(folder)

# %% [markdown]
# `Run.open` reads a folder that is there, tomorrow or on another machine.
#
# ## What is in a run?
#
# Tables. `mi` has a row for each problem, layer and step:

# %%
run.mi.head(4)

# %% [markdown]
# `peaks` has a row for each response and layer. Here are the means over responses, lowest and highest layers:

# %%
means = run.peaks.groupby("layer")[["n_steps", "n_peaks", "ratio", "mean_mi", "aom"]].mean().round(3)
means if len(means) < 8 else pd.concat([means.head(3), means.tail(3)])

# %% [markdown]
# `ratio` is the share of steps that are peaks, `aom` how far peaks are from the median, in interquartile ranges. Where
# no response of a layer has a peak, it is not defined: `NaN`.
#
# `tokens` has the tokens at peaks, by layer: those that peaks have just read (`position` is input), whose residual
# stream is scored, and those that they predict. The figure shows what peaks of any layer have read.

# %%
traced = list(trajectories(run))
peaks = pd.concat([one.peaks(layer) for one in traced for layer in one.layers])
peaks.show(top=10)

# %% [markdown]
# Do the same words come up as in *your* list of thinking words? And are they more frequent there than anywhere else?
# `watch_a_model_think` shows how to ask that, and how to find out whether a peak is about this answer at all.
#
# ## Look at one response

# %%
traced[0].show()

# %%
traced[0].show("text", layer=[0, -1])

# %%
views.trajectories(traced[:3], title="The first responses, last layer")

# %% [markdown]
# Scores of different models, or of different widths, are not on one scale: compare shapes and ranks, not heights.
#
# ## A report for others
#
# One page with all of this, which needs no network and no Python to be read.

# %%
page = write_report([run], "my_report.html")
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Open [my_report.html](my_report.html). Several runs go into one report as a list.
#
# ## A probe of your own
#
# A probe is any function from recorded vectors to a number for each layer and step. Record a response, and write yours.


# %%
def cosine(steps: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """[layer, step, d_model] and [layer, d_model] to [layer, step]."""
    return torch.cosine_similarity(steps, answer[:, None], dim=-1)


# %%
problem = problems[0]
question = [{"role": "user", "content": problem.question}] if way == "chat" else problem.question
rollout = pl.decode(model, [question], max_new_tokens=120, record=pl.ResidualSites())[0]
answer = pl.encode(model, [problem.solution], last_only=True)[0].residuals["resid_post"][:, 0]
stream = rollout.residuals["resid_post"]
scores = {"nHSIC": pl.nhsic(stream, answer), "cosine": cosine(stream, answer)}
both = [replace(pl.Trajectory.of(rollout, score), measure=key) for key, score in scores.items()]

# %%
last = torch.stack([one.mi[-1] for one in both])
marks = torch.stack([one.is_peak[-1] for one in both])
counts = dict(zip(scores, marks.sum(1).tolist(), strict=True))
print(f"peaks of the last layer: {counts}; by both: {int(marks.all(0).sum())}")
views.text(rollout.tokens, last, labels=list(scores), marks=marks, title="Two probes on one response")

# %% [markdown]
# Choose the other probe from the list. Steps that stand out by one measure and not by the other stand out because of
# the measure.
#
# ## A probe that needs the model
#
# Some probes need more than vectors, the unembedding say. Hand it over as a callable and the probe stays free of any
# model. This one asks: when could the stream say the answer?


# %%
Readout = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def says(stream: torch.Tensor, readout: Readout, token_id: int) -> torch.Tensor:
    """Log-probability (nats) of a token by layer and step, as if each vector were the last layer's."""
    return torch.stack([readout(layer).log_softmax(-1)[:, token_id] for layer in stream])


# %%
target = model.tokenizer(problem.answer, add_special_tokens=False).input_ids[0]
when = says(stream, lambda vectors: model.unembed(model.ln_final(vectors)), target)
title = f"When does the stream say {model.tokenizer.decode([target])!r}?"
views.heatmap(when, rollout.tokens, label="log-probability (nats)", title=title)

# %% [markdown]
# Bright low down: the answer is there long before the last layer. Bright far left: long before it is written. But a
# token that is likely at many steps anyway (a digit, in arithmetic) is bright without being an answer: compare with a
# wrong answer's token, as with any probe.
#
# ## Where to go on
#
# - A probe worth keeping is a module in `probes/`; `docs/architecture.md` says how it is checked.
# - `peaklens trace --model NAME --problems FILE --out FOLDER` does the tracing from a shell.
# - Larger models take `device`, `dtype` and `device_map` in `load_model`.
