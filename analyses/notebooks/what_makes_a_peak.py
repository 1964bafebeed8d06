# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # What makes a peak?
#
# A peak is a step whose residual stream scores high with the answer. That stream is a sum of what the embedding, the
# heads and the MLPs wrote there. So the peak can be shared out over them: which of them made it, where did the heads
# read it, and would it be there with a wrong answer too?
#
# The model is the bundled `toy-reasoner`, whose mechanism was planted. Nothing here is evidence about large models; how
# to ask a larger one stands at the end.

# %%
import os

import pandas as pd
import peaklens as pl
import torch

views = pl.views
views.load()

# %% [markdown]
# ## Which peak?
#
# The stream after the last layer is scored against that of the gold solution's last token. What the picture calls a
# step has read one token and predicts the next.

# %%
n = int(os.environ.get("PEAKLENS_NOTEBOOK_PROBLEMS", "40"))
model, problems, layer = pl.load_model("toy-reasoner"), pl.bundled_problems(n), 2
record = pl.ResidualSites(layers=[layer])
questions, golds = [p.question for p in problems], [p.solution for p in problems]
responses = pl.decode(model, questions, max_new_tokens=120, record=record, batch_size=40)
references = pl.encode(model, golds, record=record, last_only=True)
answers = [reference.residuals["resid_post"][0, 0] for reference in references]
mi = pl.nhsic(responses[0].residuals["resid_post"][0], answers[0])
step, tokens = int(mi.argmax()), responses[0].tokens
print(f"step {step} has read {tokens[step - 1]!r}, predicts {tokens[step]!r}, nHSIC {mi[step]:.4f}")

# %%
responses[0].show("entropy", marks=[step - 1])

# %%
views.trajectories([pl.Trajectory.of(responses[0], mi, [layer])])

# %% [markdown]
# ## What makes the word that is written there?
#
# This is the easier question, since a logit is linear in what was written (the final norm's scale is taken as it is).
# Attributed is the emitted word's logit less that of the best other word.

# %%
question, said = questions[0], responses[0].token_ids
logit = pl.logit_attribution(model, question, said, step, contrast="best other")
target, contrast, total = logit[["target", "contrast", "total"]].iloc[0]
print(f"logit of {target!r} less that of {contrast!r}: {total:.4f}")
print(f"sum of {len(logit)} shares:                {logit['share'].sum():.4f}")
logit.show(10, title="Shares in the logit difference")

# %% [markdown]
# ## What makes the score?
#
# nHSIC is not linear, and nearly blind to scale. What can be shared out is its *difference* to a reference: here the
# mean of the steps that are no peaks. Each component's share is its write less its write at the reference, times the
# score's gradient, averaged over the line between the two streams (integrated gradients). These shares sum to the
# difference.

# %%
wrong = [k for k, problem in enumerate(problems) if problem.answer != problems[0].answer]
asked = {"layer": layer, "answer": answers[0], "others": torch.stack([answers[k] for k in wrong])}
measures = ["nhsic", "nhsic excess"]
found = pl.mi_attribution(model, question, said, step, measures=measures, total="all", **asked)
ends = found.ends.set_index("measure").loc["nhsic"]
print("reference:", found.settings["references"][str(step)]["told"])
value, there, difference = ends[["value", "reference_value", "difference"]]
print(f"at the peak {value:.5f}, there {there:.5f}: {difference:.5f} more")
mine = found.shares[found.shares["measure"] == "nhsic"]
print(f"sum of {len(mine)} shares:          {mine['share'].sum():.5f}")
found.show(10, measure="nhsic")

# %% [markdown]
# ## What is a share worth?
#
# A share says what moved the score along one line. Two other numbers are of one component alone. *Direct*: what the
# score loses when this write is exchanged for the reference's and everything after it stays as it was. *Total*: the
# same, but the model runs on and later components see the exchange. They need not add up to anything.

# %%
columns = ["component", "share", "direct", "total"]
print("sums:", mine[["share", "direct", "total"]].sum().round(5).to_dict())
found.top(6, measure="nhsic")[columns].round(5)

# %% [markdown]
# Only the first column sums to the difference. Where a component's total effect is far from its direct one, later
# components answer to what it writes: then neither number alone says what it does.
#
# ## Where do the heads read it?
#
# A head's share is again a sum, over the positions that it looks at: its attention there less that at the reference,
# times what it would write from there.

# %%
sources = found.sources[found.sources["measure"] == "nhsic"]
head = sources["component"].iloc[0]
of_head = sources[sources["component"] == head].sort_values("share", key=abs, ascending=False)
total_share = mine.set_index("component").loc[head, "share"]
print(f"{head}: share {total_share:.5f}, sum over positions {of_head['share'].sum():.5f}")
of_head[["position", "at_step", "source_token", "weight", "reference_weight", "share"]].head(6).round(4)

# %% [markdown]
# `at_step` is missing for tokens of the question.
#
# ## Is it about *this* answer?
#
# The *excess* is the score with the own answer less the mean score with wrong ones. Its gradient is the difference of
# theirs: what makes the step look like any stated digit drops out, what is left is about this digit.

# %%
table = found.ends.set_index("measure")[["value", "reference_value", "difference", "missing"]]
rest = table.loc["nhsic excess", "difference"] / table.loc["nhsic", "difference"]
print(f"{rest:.0%} of the difference is about this answer")
both = found.shares.pivot(index="component", columns="measure", values="share")
both.sort_values("nhsic", key=abs, ascending=False).head(8).round(5)

# %%
found.show(10, measure="nhsic excess")

# %% [markdown]
# `missing` in the table of ends is what part of the difference the shares fall short of: the error of the integral.
#
# ## Does it hang on the reference?
#
# It must, since it is a difference that is shared out. *matched* compares with the nearest step that is no peak and has
# read a token of the same kind.

# %%
asked |= {"measures": ["nhsic"], "reference": "matched", "total": "none"}
matched = pl.mi_attribution(model, question, said, step, **asked)
print("reference:", matched.settings["references"][str(step)]["told"])
pair = {"non-peaks": mine, "matched": matched.shares}
beside = pd.DataFrame({name: one.set_index("component")["share"] for name, one in pair.items()})
print("rank correlation of the shares:", round(beside.corr("spearman").iloc[0, 1], 2))
beside.sort_values("non-peaks", key=abs, ascending=False).head(6).round(5)

# %% [markdown]
# What is large against both references is safest to speak of.
#
# ## Does it hold for more than one response?
#
# The highest step of each response, the wrong answers of each problem, and the component with the largest share.

# %%
rows = []
for k, response in enumerate(responses[:24]):
    top = int(pl.nhsic(response.residuals["resid_post"][0], answers[k]).argmax())
    wrong = [j for j, p in enumerate(problems) if p.answer != problems[k].answer]
    asked = {"layer": layer, "answer": answers[k], "others": torch.stack([answers[j] for j in wrong])}
    asked |= {"measures": measures, "total": "none", "sources": 0}
    one = pl.mi_attribution(model, questions[k], response.token_ids, top, **asked)
    rows.append(one.shares.assign(problem=k))
every = pd.DataFrame(pd.concat(rows))

# %%
means = []
for component, shares in every[every["measure"] == "nhsic"].groupby("component")["share"]:
    interval = pl.stats.bootstrap_interval(shares)
    means.append((component, interval.estimate, interval.low, interval.high))
mean = pd.DataFrame(means, columns=["component", "share", "low", "high"])
mean = mean.sort_values("share", key=abs, ascending=False).head(8)
title = f"Mean shares at the highest steps of {len(rows)} responses"
views.bars(mean, label="component", value="share", low="low", high="high", reference=0, title=title)

# %% [markdown]
# Intervals (95 %) are over problems. They say which shares are alike from one response to the next. They do not say
# that the model uses these writes: for that, take the component away (`the_circuit_behind_wait`).
#
# ## And a larger model?
#
# The same calls. Below, SmolLM2 answers one question and its highest step is shared out; it runs where the model has
# been pulled (`peaklens models pull smollm2-135m-instruct`), and not at the size of a test.

# %%
name = "smollm2-135m-instruct"
cached = any(entry.name == name and entry.state == "cached" for entry in pl.list_models())
runs_here = cached and n >= 40
if runs_here:
    large, solution = pl.load_model(name), "3 boxes of 4 pens are 12 pens. 12 - 5 = 7. The answer is 7"
    record = pl.ResidualSites(layers=[20])
    asks = "Tom has 3 boxes of 4 pens and gives 5 away. How many are left?"
    chat = [{"role": "user", "content": asks}]
    (thought,) = pl.decode(large, [chat], max_new_tokens=160, record=record)
    gold = pl.encode(large, [solution], record=record, last_only=True)[0].residuals["resid_post"][0, 0]
    at = int(pl.nhsic(thought.residuals["resid_post"][0], gold).argmax())
print("SmolLM2 answers:", thought.text if runs_here else "not run here")

# %%
if runs_here:
    options = {"layer": 20, "answer": gold, "measures": ["nhsic", "nhsic/drop4", "r2"]}
    real = pl.mi_attribution(large, chat, thought.token_ids, at, **options)
    print(f"step {at} has read {thought.tokens[at - 1]!r}; sums of shares and differences:")
    sums = real.shares.groupby("measure", sort=False)["share"].sum()
    print(pd.DataFrame({"sum": sums, "difference": real.ends.set_index("measure")["difference"]}))
    print(real.top(8, measure="nhsic/drop4")[["component", "share", "direct", "total"]])

# %% [markdown]
# Read three things before you speak of it. Does `nhsic/drop4` share out alike? If not, a few massive coordinates make
# the peak. Is the excess over wrong answers (`others=`) a part of it worth having? If not, the peak is not about the
# answer. Do totals agree in sign with shares? If not, later components undo it. One peak of one response is an
# example and no finding.
#
# ## What to conclude
#
# - Shares of a logit and of a score are exact sums: nothing is left over, and each says what it is compared with.
# - They tell what wrote a score. Whether it is about this answer is in the excess, whether it is used in interventions.
