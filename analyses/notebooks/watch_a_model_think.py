# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Watch a model think
#
# A model writes a response one token at a time. Before each token it computes a stack of vectors, one per layer: its
# *residual stream*. Here you record all of them, score each against the gold answer, and see which steps stand out
# (*peaks*) and which words are written there, as in [Thinking Tokens are Information Peaks in LLM
# Reasoning](https://arxiv.org/abs/2506.02867). At the end you check what such a peak does not tell.
#
# The model is the bundled `toy-reasoner`: tiny, quick on a CPU, and trained on arithmetic in which slips and repairs
# were planted. What you see shows how the tool works. It says nothing about large models.

# %%
import os
from collections import Counter
from dataclasses import replace

import pandas as pd
import peaklens as pl
import torch

views = pl.views
views.load()

# %% [markdown]
# ## What does the model write?
#
# A question is left-to-right arithmetic, keeping the last digit only. `->` asks for the response.

# %%
model, problem = pl.load_model("toy-reasoner"), pl.bundled_problems(1)[0]
rollout = pl.decode(model, [problem.question], max_new_tokens=120, record=pl.ResidualSites())[0]
print(problem.question, "\ngold:", problem.solution)
rollout.show("entropy")

# %% [markdown]
# Dark tokens are those the model was unsure of. Compare with the gold line: some results are slips. After some of them
# the model writes `Wait` and the right digit; `Hmm` redoes an earlier operation.
#
# ## What is a step?
#
# Step *t* is the position whose vectors choose response token *t*. It has read everything *before* that token, and not
# the token itself. `resid_post` is the stream after each block.

# %%
stream = rollout.residuals["resid_post"]  # [layer, step, d_model]
print("layers, steps, width:", tuple(stream.shape))
with torch.no_grad():
    chosen = model.unembed(model.ln_final(stream[-1])).argmax(-1)
print("what the last layer says is the response:", torch.equal(chosen, rollout.token_ids))
views.heatmap(stream.norm(dim=-1), rollout.tokens, label="length of the vector")

# %% [markdown]
# One column is one step, one row one layer; hover to see the token. If the second line above says `True`, then the last
# layer's vector at step *t* is indeed what wrote token *t*.
#
# ## Which steps resemble the answer?
#
# Run the gold solution through the model on its own and keep the vectors at its last token: that is "the answer". nHSIC
# scores how far the coordinates of a step's vector vary together with the coordinates of the answer's.

# %%
answer = pl.encode(model, [problem.solution], last_only=True)[0].residuals["resid_post"][:, 0]
mi = pl.nhsic(stream, answer)  # [layer, step]
one = replace(pl.Trajectory.of(rollout, mi), problem=problem.id)
one.show("lines")

# %% [markdown]
# The line is the last layer's score over the response. The dotted line is Tukey's fence, Q3 + 1.5 IQR of this line; the
# steps above it are its *peaks*.
#
# **nHSIC is a similarity of coordinates, not bits.** It compares two vectors, so it has no notion of how many answers
# there could be. "This step carries so much information about the answer" does not follow from it.
#
# ## Is it the same in every layer?

# %%
one.show()

# %% [markdown]
# Dots are peaks, by each layer's own fence. Compare the rows: do the same steps stand out below and above?
#
# ## What is written there?
#
# The same scores on the text. Choose a layer from the list; outlined tokens are peaks.

# %%
one.show("text")

# %%
one.peaks()

# %% [markdown]
# `distance` says how far a peak is from the median, in interquartile ranges.
#
# That was all of it: `load_model`, `decode`, `encode`, `nhsic`, peaks; a line each.
#
# ## Which words sit on peaks?
#
# One response is an anecdote. Take some more problems.

# %%
n = int(os.environ.get("PEAKLENS_NOTEBOOK_PROBLEMS", "40"))
problems, last = pl.bundled_problems(n), pl.ResidualSites(layers=-1)
responses = pl.decode(model, [p.question for p in problems], max_new_tokens=120, record=last)
gold = pl.encode(model, [p.solution for p in problems], record=last, last_only=True)
answers = [text.residuals["resid_post"][0, 0] for text in gold]
scores = [pl.nhsic(r.residuals["resid_post"][0], a) for r, a in zip(responses, answers, strict=True)]
own = [pl.Trajectory.of(r, mi) for r, mi in zip(responses, scores, strict=True)]
peaks = pd.concat([trajectory.peaks() for trajectory in own])
print(f"{len(peaks)} peaks in {sum(map(len, responses))} steps of {n} responses")
peaks.show(top=8, position="predicted")

# %% [markdown]
# A frequent word is frequent at peaks too. So divide: *lift* is a word's share of the peaks over its share of all
# tokens. 1 means no more often than anywhere else.

# %%
at_peaks, overall = Counter(peaks["token"]), Counter(token for r in responses for token in r.tokens)
ratio = overall.total() / at_peaks.total()
lifts = [(token, count * ratio / overall[token]) for token, count in at_peaks.most_common(8)]
print("on most peaks:", *(f"{token!r} ({count})" for token, count in at_peaks.most_common(3)))
views.bars(pd.DataFrame(lifts, columns=["token", "lift"]), label="token", value="lift", reference=1)

# %% [markdown]
# On this toy the word on most peaks is no thinking word: it is the full stop. But a step's score is that of the
# residual stream at the token which it has *read*; the token above is the one which it predicts. The same peaks by
# what they have read:

# %%
peaks.show(top=8)

# %% [markdown]
# A step that is about to write `.` has just read a result digit, and the gold solution, too, ends on a digit. So there
# is a plain alternative to "this step knows the answer": *the score sees the kind of position.*
#
# ## Is it this answer, or any answer?
#
# The two readings differ in one thing that can be tried: score the same response against the answers of *other*
# problems. If the peaks are about this answer, they should sink.

# %%
stranger = next(answers[i] for i, p in enumerate(problems) if p.answer != problem.answer)
mine, response = replace(own[0], problem="own answer"), responses[0]
wrong = pl.Trajectory.of(response, pl.nhsic(response.residuals["resid_post"][0], stranger))
kept = int((mine.is_peak & wrong.is_peak).sum())
print(f"peaks against its own answer: {int(mine.is_peak.sum())}; against the other one too: {kept}")
views.trajectories([mine, replace(wrong, problem="another problem's answer")])

# %% [markdown]
# The closer the two lines, the less the score depends on *which* answer it is given.
#
# ## And over all responses?
#
# Ask of each step: which share of other problems' answers (those with another digit) scores lower than its own answer?
# An own answer that is nothing special beats about half of them. So that no answer is favoured, peaks are here those of
# the mean score over all answers. The full stop after the stated answer is kept apart.


# %%
def beaten(i: int) -> list[float]:
    """The share of other answers that score lower: at the last stop, other peaks, all steps."""
    others = [a for a, p in zip(answers, problems, strict=True) if p.answer != problems[i].answer][:12]
    steps = responses[i].residuals["resid_post"][0]
    scores = torch.stack([pl.nhsic(steps, a) for a in [answers[i], *others]])  # [answer, step]
    lower = (scores[:1] > scores[1:]).double().mean(0)
    peaks, stop = pl.tukey_peaks(scores.mean(0)), torch.zeros(len(lower), dtype=torch.bool)
    stop[max(step for step, token in enumerate(responses[i].tokens) if token == ".")] = True
    return [float(lower[where].mean()) for where in (stop, peaks & ~stop, stop | ~stop)]


# %%
shares = pd.DataFrame([beaten(i) for i in range(n)], columns=["last stop", "other peaks", "all steps"])
mean, half = shares.mean(), 1.96 * shares.sem()
table = pd.DataFrame({"others beaten": mean, "low": mean - half, "high": mean + half})
print(table.round(2).to_string())
table = table.reset_index(names="steps")
views.bars(table, label="steps", value="others beaten", low="low", high="high", reference=0.5)

# %% [markdown]
# Near 0.5, any answer would have scored as high, and what the score shows is the kind of position. Near 1, it
# depends on this very answer. The last stop is where to be careful: it has just read the stated answer, and where
# that is right it is the very digit that the reference ends on. A high share there says no more than that.
# (Intervals: 95 %, over responses.)
#
# ## What to conclude
#
# - Peaks are sparse, and few words sit on them. That much the scores show.
# - What a peak *means* is a question of its own, which the score alone does not answer.
# - The check above is small, and of this toy. A test of one peak needs at least 99 other answers, matched on the
#   reference's last token: the smallest p-value it can give is 1 / (answers + 1).
# - Whether a step *matters* is found out by touching it: see `touch_a_thinking_step`.
