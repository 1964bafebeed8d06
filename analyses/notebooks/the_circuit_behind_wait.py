# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # The circuit behind Wait
#
# The bundled `toy-reasoner` writes planted slips, then `Wait` and the right digit, or a step later `Hmm`. Which heads
# and MLPs copy the operation, notice the slip and write the repair?
#
# They are looked for on one half of the problems, and what is found is put to the test on the other: without it,
# without as many others, and with its values put back. The model is small enough to try every component, so that
# nothing has to be estimated. Nothing here is evidence about large models.

# %%
import os

import pandas as pd
import peaklens as pl

from analyses.toys import wait_circuit as wc
from analyses.toys.task import held_out_questions

views, iv = pl.views, pl.interventions
views.load()

# %% [markdown]
# ## What does each step do?
#
# The task is arithmetic in words, so that it is known of each step.

# %%
n = int(os.environ.get("PEAKLENS_NOTEBOOK_PROBLEMS", "60")) * 2
model, questions = pl.load_model("toy-reasoner"), held_out_questions(n)
runs = wc.read_runs(model, questions)
first, other = runs[: n // 2], runs[n // 2 :]
counts = [{kind: len(run.steps(kind)) for kind in wc.KINDS} for run in runs]
print(pd.DataFrame(counts).sum().to_frame("steps").T.to_string(index=False))

# %%
example = next(run for run in runs if run.steps("notice"))
question = questions[example.problem].text
response = pl.decode(model, question, max_new_tokens=160)[0]
response.show("entropy", marks=example.steps("notice", "redo"))

# %% [markdown]
# `notice` writes the outlined `Wait`, `repair` the digit after it, `redo` a `Hmm`. `slip` writes a wrong digit, `leave`
# goes on after one.
#
# ## Who is needed?
#
# Each component in turn is set to its mean at the steps of a task, and at all others that have read the same kind of
# word: who notices a slip is silenced after right digits too. The table has the share of a task's steps that come out
# as before.

# %%
found = wc.search(model, first)
left = found.frame.pivot(index="node", columns="task", values="left")[list(wc.TASKS)]
left.loc[[node.label for node in wc.components(model)]].round(2)

# %%
title = "Left of each task without a component"
views.heatmap(left.T.to_numpy(), list(left.index), title=title, label="left")

# %% [markdown]
# Rows are the tasks in the order of the table, from below. Taken for the circuit is every component without which a
# fifth of a task's steps or more is lost.

# %%
circuit = {task: wc.needed(found, task) for task in wc.TASKS}
for task, nodes in circuit.items():
    print(f"{task}: {', '.join(node.label for node in nodes) or 'no component alone'}")

# %% [markdown]
# "No component alone" means that the work is shared, so that others fill in: one at a time finds no such circuit.
#
# ## Does it hold on the other half?
#
# *without*: all of a task's components at once. *random*: as many others of the same layers. *put back*: without them,
# but where the task is done they have the values of *another problem's* run that wrote the same word. *from an ordinary
# step*: the same from a step where there was nothing to notice. `ordinary` is the share of ordinary steps that stay.

# %%
proof = wc.proved(model, other, found)
proof[["task", "condition", "n", "right", "low", "high", "ordinary"]].round(2)

# %%
noticed = proof[proof["task"].isin(["notice at once", "notice a step later"])]
names = noticed["task"].str.removeprefix("notice ") + ": " + noticed["condition"]
title = "Slips that are noticed, on the other half"
views.bars(noticed.assign(of=names), label="of", value="right", low="low", high="high", title=title)

# %% [markdown]
# Intervals (95 %) are over problems. Where nothing is left without the components and all of it with another problem's
# values, these carry what is needed; where putting back restores little, they carry more than the word that is written.
# A component that is needed, but was missed since the first half had few such steps, stands among the random ones, and
# shows there.
#
# ## Would the other half have found the same?
#
# The same exact search there says what is needed. Precision is the share of what was found that it needs, recall the
# share of what it needs that was found.

# %%
again = wc.search(model, other, found.means)
for name, estimate in wc.agreement(found, again).items():
    interval = f"[{estimate.low:.2f}, {estimate.high:.2f}]"
    print(f"{name}: {estimate.estimate:.2f} {interval}, {estimate.n} problems")

# %% [markdown]
# ## And when the model writes freely?
#
# So far the text was given. Now one head, which writes `Hmm`, is set to its mean over whole responses while the model
# writes; beside it each other head of its layer.

# %%
texts = [question.text for question in questions]
half, rest = texts[: n // 2], texts[n // 2 :]
z = pl.ResidualSites(sites=("z",), layers=[2])
source = pl.decode(model, half, max_new_tokens=160, record=z, batch_size=64)
written = {"left alone": pl.decode(model, rest, max_new_tokens=160, batch_size=64)}
for head in range(model.cfg.n_heads):
    without = iv.HeadAblate((2, head), "mean", source, positions="response")
    written[f"without L2H{head}"] = pl.decode(
        model, rest, max_new_tokens=160, interventions=without, batch_size=64
    )  # fmt: skip

# %%
has_hmm = ["Hmm" in response.tokens for response in written["left alone"]]
rows = []
for name, responses in written.items():
    same = [a.tokens == b.tokens for a, b in zip(responses, written["left alone"], strict=True)]
    calm = [s for s, hmm in zip(same, has_hmm, strict=True) if not hmm]
    hmm = sum(response.tokens.count("Hmm") for response in responses)
    rows.append((name, hmm, f"{sum(calm)} of {len(calm)}"))
pd.DataFrame(rows, columns=["condition", "Hmm written", "texts without Hmm that stay"])

# %% [markdown]
# ## Who tells whom?
#
# One noticed slip against the same text with the right digit in its place, up to the step that writes `Wait` or goes
# on. The texts differ in the digit that has just been read, so that all that differs stands at its position. Patched
# are nodes, and edges from what writes to what reads; all exactly, so that estimates can be held against that.

# %%
at = example.steps("notice")[0]
ids = response.token_ids[: at + 1].clone()
ids[at - 1] = response.token_ids[at + 1]  # the right digit, which stands after the Wait
clean, corrupt = pl.read(model, question, response.token_ids[: at + 1]), pl.read(model, question, ids)
metric = pl.logit_difference(*model.tokenizer.convert_tokens_to_ids(["Wait", "."]))
last = len(clean.prompt_ids) + at - 1
effects = pl.patch_nodes(
    model, clean, corrupt, metric, at=at, kinds=("embed", "head", "mlp"), positions=[last], verify="all"
)
edges = pl.patch_edges(model, clean, corrupt, metric, at=at, sources=[last], verify="all")
print(effects, edges, sep="\n")

# %%
words = {"position": [last], "step": [at], "input_token": [clean.tokens[at - 1]], "token": ["Wait"]}
whole = pl.Circuit.from_effects(edges, effects, positions=pd.DataFrame(words))
told = whole.greedy(20, by="exact")
told.show(title="From the wrong digit to Wait")

# %% [markdown]
# Predicted (left half) beside measured (right half): where they part, attention or a norm is far from linear.
#
# ## Is that all of it?
#
# The model with only the nodes of that picture: all others write what they write after the right digit. And with as
# many drawn from the same layers: of so few nodes a draw can be the circuit itself.

# %%
measure = pl.node_measure(model, clean, corrupt, metric, told, at=at)
print(pl.attribution.recovered(told, measure, of="nodes"))
print(pl.attribution.random_circuits(told, measure, of="nodes", n=50, like="layers"))

# %% [markdown]
# ## What to conclude
#
# - Copying, noticing and repairing are done by different components, and silencing one task's leaves ordinary steps.
# - A circuit is what is needed *against a mean*: what a component says at all steps of a kind stays in it.
# - Where the work is shared, one at a time finds too little: those tasks for which it names no component, and those of
#   which much is left without what it names.
