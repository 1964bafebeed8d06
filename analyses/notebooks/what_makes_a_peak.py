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
# The model is the bundled `toy-reasoner`. What its words do was planted in its training; which components do it was
# not. Nothing of it is evidence about large models; one peak of a real one stands at the end.

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
found = pl.mi_attribution(
    model, question, said, step, layer=layer, answer=answers[0],
    others=torch.stack([answers[k] for k in wrong]), measures=["nhsic", "nhsic excess"], total="all",
)  # fmt: skip
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
# theirs: what makes the step look like any stated digit drops out, what is left is about this digit. `missing` is what
# part of a difference the shares fall short of: the error of the integral.

# %%
table = found.ends.set_index("measure")[["value", "reference_value", "difference", "missing"]]
rest = table["difference"]["nhsic excess"] / table["difference"]["nhsic"]
print(f"{rest:.1%} of the difference is about this answer, against {len(wrong)} wrong ones")
table.round(5)

# %%
both = found.shares.pivot(index="component", columns="measure", values="share")
both.sort_values("nhsic", key=abs, ascending=False).head(8).round(5)

# %%
found.show(10, measure="nhsic excess")

# %% [markdown]
# ## Does it hang on the reference?
#
# It must, since it is a difference that is shared out. *matched* compares with the nearest step that is no peak and has
# read a token of the same kind.

# %%
matched = pl.mi_attribution(
    model, question, said, step, layer=layer, answer=answers[0], measures=["nhsic"],
    reference="matched", total="none",
)  # fmt: skip
print("reference:", matched.settings["references"][str(step)]["told"])
pair = {"non-peaks": mine, "matched": matched.shares}
beside = pd.DataFrame({name: one.set_index("component")["share"] for name, one in pair.items()})
rank = beside["non-peaks"].corr(beside["matched"], method="spearman")
print(f"rank correlation of {len(beside)} shares: {rank:.2f}")
beside.sort_values("non-peaks", key=abs, ascending=False).head(6).round(5)

# %% [markdown]
# What is large against both references is safest to speak of.
#
# ## Does it hold for more than one response?
#
# The highest step of each response, with the wrong answers of each problem.


# %%
def attributed(k: int) -> pl.MiAttribution:
    """Of response k, at its highest step."""
    top = int(pl.nhsic(responses[k].residuals["resid_post"][0], answers[k]).argmax())
    wrong = [j for j, p in enumerate(problems) if p.answer != problems[k].answer]
    return pl.mi_attribution(
        model, questions[k], responses[k].token_ids, top, layer=layer, answer=answers[k],
        others=torch.stack([answers[j] for j in wrong]), measures=["nhsic", "nhsic excess"],
        total="none", sources=0,
    )  # fmt: skip


# %%
several = [attributed(k) for k in range(min(n, 24))]
every = pd.DataFrame(pd.concat(one.shares for one in several))
gained = [one.ends.set_index("measure")["difference"] for one in several]
about = pl.stats.bootstrap_interval([one["nhsic excess"] / one["nhsic"] for one in gained])
bounds = f"[{about.low:.1%}, {about.high:.1%}], n = {about.n}"
print(f"about this answer: {about.estimate:.1%} of the difference {bounds}")

# %%
means = []
for component, shares in every[every["measure"] == "nhsic"].groupby("component")["share"]:
    interval = pl.stats.bootstrap_interval(shares)
    means.append((component, interval.estimate, interval.low, interval.high))
mean = pd.DataFrame(means, columns=["component", "share", "low", "high"])
mean = mean.sort_values("share", key=abs, ascending=False).head(8)
title = f"Mean shares at the highest steps of {len(several)} responses"
views.bars(mean, label="component", value="share", low="low", high="high", reference=0, title=title)

# %% [markdown]
# Intervals (95 %) are over problems. They say which shares are alike from one response to the next. They do not say
# that the model uses these writes: for that, take the component away (`the_circuit_behind_wait`).
#
# ## One peak of a real model
#
# SmolLM2-135M-Instruct, where it has been pulled (`peaklens models pull smollm2-135m-instruct`), two thirds up its 30
# layers, on a short question that it answers right: the only one of eight that were tried.

# %%
name = "smollm2-135m-instruct"
runs_here = n >= 40 and any(one.name == name and one.state == "cached" for one in pl.list_models())
if runs_here:
    large, high = pl.load_model(name), pl.ResidualSites(layers=[20])
    asks = "Mia reads 5 pages a day. How many pages does she read in 3 days?"
    chat = [{"role": "user", "content": asks}]
    (thought,) = pl.decode(large, [chat], max_new_tokens=96, record=high)
    print(thought.text)
else:
    print(f"Left out here: it takes {name}, pulled, and more than the size of a test.")

# %% [markdown]
# Its highest step, and how other answers score there: eight that end in the same digit, eight that do not.

# %%
if runs_here:
    factors = [(5, 3), *((5, k) for k in range(5, 21, 2))]
    factors += [(4, 3), (7, 2), (8, 2), (9, 2), (7, 3), (8, 3), (9, 3), (7, 4)]
    golds = [f"{a} * {b} = {a * b}\n#### {a * b}" for a, b in factors]
    read = pl.encode(large, golds, record=high, last_only=True)
    gold, *rest_of = (one.residuals["resid_post"][0, 0] for one in read)
    stream = thought.residuals["resid_post"][0]
    mi = pl.nhsic(stream, gold)
    at, before = int(mi.argmax()), thought.tokens[int(mi.argmax()) - 1]
    print(f"step {at} has read {before!r}, predicts {thought.tokens[at]!r}")
    peaks = int(pl.tukey_peaks(mi).sum())
    print(f"nHSIC {mi[at]:.3f}, highest of {peaks} peaks; median of {len(mi)} steps {mi.median():.3f}")

# %%
if runs_here:
    same, other = f"that end in {before}", "other answers"
    kinds = {other: torch.stack(rest_of[8:]), same: torch.stack(rest_of[:8])}
    for kind, others in kinds.items():
        scores = torch.stack([pl.nhsic(stream[at : at + 1], answer)[0] for answer in others])
        high_as = f"{int((scores >= mi[at]).sum())} of {len(scores)} as high as the own one"
        print(f"{kind:14}: {scores.min():.3f} to {scores.max():.3f}, {high_as}")

# %% [markdown]
# Shared out are nHSIC with and without the answer's four largest coordinates, r2, and the excess over either kind.

# %%
if runs_here:
    wanted, ids = ["nhsic", "nhsic/drop4", "r2", "nhsic excess"], thought.token_ids
    against = {
        kind: pl.mi_attribution(
            large, chat, ids, at, layer=20, answer=gold, others=those, measures=wanted
        )
        for kind, those in kinds.items()
    }  # fmt: skip

# %%
if runs_here:
    real = against[same]
    both_ends = pd.concat(one.ends.assign(others=kind) for kind, one in against.items())
    columns = ["measure", "others", "value", "reference_value", "difference", "missing"]
    ends = both_ends.drop_duplicates(["measure", "value"])[columns]
    print(ends.to_string(index=False))

# %%
if runs_here:
    columns = ["component", "share", "direct", "total"]
    print(real.top(8, measure="nhsic")[columns].to_string(index=False))
    by_measure = real.shares.pivot(index="component", columns="measure", values="share")
    ranks = by_measure.corr("spearman")["nhsic"].round(2).to_dict()
    print(f"rank correlation of {len(by_measure)} shares with those of nhsic: {ranks}")
    from_where = real.sources[real.sources["measure"] == "nhsic"].sort_values("share", key=abs)[::-1]
    columns = ["component", "at_step", "source_token", "weight", "reference_weight", "share"]
    print(from_where[columns].head(5).to_string(index=False))

# %% [markdown]
# And the word that is written there: a sum too.

# %%
if runs_here:
    logit = pl.logit_attribution(large, chat, thought.token_ids, at, contrast="best other")
    target, contrast, total = logit[["target", "contrast", "total"]].iloc[0]
    print(f"logit of {target!r} less that of {contrast!r}: {total:.4f}, sum {logit['share'].sum():.4f}")
    print(logit.top(5)[["component", "share"]].to_string(index=False))

# %% [markdown]
# What the peak hangs on is asked by changing a text: the digit in the question, or the one that has just been read.

# %%
if runs_here:
    clean, ids = thought.token_ids[: at + 1], thought.token_ids[: at + 1].clone()
    ids[at - 1] = large.tokenizer("2", add_special_tokens=False).input_ids[0]
    other_chat = [{"role": "user", "content": asks.replace("5 pages", "4 pages")}]
    texts = {"question": (other_chat, clean), "digit just read": (chat, ids)}
    falls = {}
    for kind, (prompt, response) in texts.items():
        changed = pl.read(large, prompt, response, record=high).residuals["resid_post"][0, at : at + 1]
        falls[kind] = float(mi[at] - pl.nhsic(changed, gold)[0])
        print(f"another {kind}: nHSIC {mi[at] - falls[kind]:.3f}, {falls[kind]:.3f} less")

# %% [markdown]
# By which heads and MLPs does that digit get there? Estimated for all, exact for the strongest and for a random sample.

# %%
if runs_here:
    right, slip = pl.read(large, chat, clean), pl.read(large, chat, ids)
    metric, place = pl.nhsic_metric(gold, 20), [len(right.prompt_ids) + at - 1]
    effects = pl.patch_nodes(
        large, right, slip, metric, at=at, kinds=("head", "mlp"), layers=range(21), positions=place
    )
    print(effects)
    print(effects.verified[["node", "score", "exact", "exact_share"]].head(6).to_string(index=False))

# %% [markdown]
# Which of them are enough? All others have what they write after the other digit; the embedding stays.

# %%
if runs_here:
    scored = pl.Circuit.from_effects(nodes=effects)
    measure = pl.node_measure(large, right, slip, metric, scored, at=at)
    curve = pl.attribution.recovery_curve(scored, measure)
    print(curve, curve.frame[["kept", "value", "recovered"]].to_string(index=False), sep="\n")
    few = scored.top(len(measure.candidates) // 5)
    drawn = pl.attribution.random_circuits(few, measure, n=20, like="layers")
    print(drawn)

# %%
if runs_here:
    by = ends.set_index(["measure", "others"])["difference"]
    over = by["nhsic", other]
    one, two = (by["nhsic excess", kind] / over for kind in kinds)
    print(f"Of what this peak has over other steps, {1 - one:.0%} it has with other answers too,")
    print(f"{one - two:.0%} with those that end in {before}, {two:.0%} with its own alone (8 and 8).")
    digit, asked = (falls[kind] / over for kind in ("digit just read", "question"))
    print(f"{digit:.0%} hang on the digit just read, {asked:.1%} on that of the question.")
    first = real.top(1, measure="nhsic").iloc[0]
    print(f"The largest share has {first['component']}: {first['share'] / over:.0%}.")

# %%
if runs_here:
    alone, without = pl.attribution.recovered(few, measure).frame["recovered"]
    count = f"{len(few.kept('nodes'))} of {len(measure.candidates)} components"
    print(f"{count} bring back {alone:.0%} of what all make of that digit,")
    average = drawn.frame["recovered"].mean()
    print(f"as many of the same layers, drawn at random, {average:.0%} (n = {len(drawn.frame)});")
    print(f"without these {without:.0%} is left.")

# %% [markdown]
# What that does not carry: one peak of one response is an example and no finding. A share says what moved the score
# along one line, not what the model uses. An own answer that is the highest of nine is no better than p = 1/9. A stream
# that has just read a digit resembles references that end on one: whether peaks mean more is what nulls and bits are
# for (`is_it_information`). And where random components bring back nearly as much, the chosen ones are no circuit
# of their own.
#
# ## What to conclude
#
# - Shares of a logit sum to it; shares of a score sum to its difference to a reference, but for an integral's error.
# - They tell what wrote a score. Whether it is about this answer is in the excess, whether it is used in interventions.
