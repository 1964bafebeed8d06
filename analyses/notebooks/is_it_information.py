# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Is it information?
#
# A peak of nHSIC is called a mutual-information peak. But nHSIC compares the coordinates of two vectors: it is no
# number of bits, and one problem alone can have none. Here the question is asked in five ways. Is the peak there at
# another bandwidth? Is it more than a correlation? Would it be there against a wrong answer? Do the steps carry bits of
# the answer, told by a probe that never saw the problem? And which errors would those bits allow?
#
# The model is the bundled `toy-reasoner`, where the truth is known. Nothing here is evidence about large models.

# %%
import os

import pandas as pd
import peaklens as pl
import torch

from analyses.toys.running import running_values

views = pl.views
views.load()

# %%
n = int(os.environ.get("PEAKLENS_NOTEBOOK_PROBLEMS", "40")) * 12
model, problems = pl.load_model("toy-reasoner"), pl.bundled_problems(n)
layer = 2
record = pl.ResidualSites(layers=[layer])
questions = [problem.question for problem in problems]
responses = pl.decode(model, questions, max_new_tokens=120, record=record, batch_size=64)
references = pl.encode(model, [problem.solution for problem in problems], record=record, last_only=True)
answers = torch.stack([reference.residuals["resid_post"][0, 0] for reference in references])
steps, tokens = responses[0].residuals["resid_post"][0], responses[0].tokens
print(" ".join(tokens), "\ngold answer:", problems[0].answer)

# %% [markdown]
# ## At another bandwidth?
#
# The kernel has a bandwidth, sigma. The authors search it between 50 and 400. The *median heuristic* takes the median
# distance between a vector's coordinates instead. If peaks mean something they should not hang on this choice.

# %%
sweep = pl.bandwidth_sweep(steps, answers[0])
names = [str(sigma) for sigma in sweep.sigmas]
print("peaks:", {name: int(peaks.sum()) for name, peaks in zip(names, sweep.is_peak, strict=True)})
pd.DataFrame(sweep.jaccard.numpy(), names, names).round(2)

# %% [markdown]
# The table says how much two sets of peaks have in common (Jaccard: 1 is the same set, 0 is nothing in common).
#
# ## More than a correlation?
#
# With a wide kernel the score looks at the coordinates almost linearly. The plainest measure of that kind is Pearson's
# r², which for two vectors is the same as linear CKA.

# %%
mi, r2 = pl.nhsic(steps, answers[0]), pl.pearson_r2(steps, answers[0])
both = pd.DataFrame({"nHSIC": mi.numpy(), "r2": r2.numpy(), "token": tokens})
print("rank correlation over steps:", round(both["nHSIC"].corr(both["r2"], method="spearman"), 2))
views.trajectories(
    [
        pl.Trajectory.of(responses[0], mi / mi.max(), [layer], problem="nHSIC, share of its largest"),
        pl.Trajectory.of(responses[0], r2 / r2.max(), [layer], problem="r², share of its largest"),
    ]
)

# %% [markdown]
# ## Against a wrong answer?
#
# Score the same steps against the references of *other* problems. A wrong answer must be *another* answer, and its
# reference must end like the own one, or the null is beaten by whatever tells the end. Here every reference ends on
# `Therefore` and the answer's digit: those of another digit are wrong answers, as close as there can be. Those of the
# same digit are *right* answers, of other problems: no null at all. A step counts if its score exceeds what 95 % of
# the wrong answers reach *anywhere* in the response: then a chance find among many steps is accounted for.


# %%
def family_p(response: pl.Rollout, mi: torch.Tensor, chosen: list[int]) -> torch.Tensor:
    scores = pl.null_scores(response.residuals["resid_post"], answers[chosen][None])[0]
    return pl.null_test(mi, scores).p_family


same = [k for k, p in enumerate(problems) if p.answer == problems[0].answer and k > 0]
other = [k for k, p in enumerate(problems) if p.answer != problems[0].answer]
rows = []
for kind, chosen in (("wrong answers", other), ("right answers of others", same)):
    p_family = family_p(responses[0], mi, chosen)
    for step in pl.Trajectory.of(responses[0], mi).is_peak[0].nonzero()[:, 0].tolist():
        p = float(p_family[step])
        rows.append({"against": kind, "K": len(chosen), "step": step, "token": tokens[step], "p": p})
pd.DataFrame(rows).pivot(index=["step", "token"], columns=["against", "K"], values="p").round(3)

# %% [markdown]
# A peak with a large p against wrong answers would be there with a wrong answer too. Which of them do survive, over
# many responses?

# %%
found = []
for k, response in enumerate(responses[:24]):
    scores = pl.nhsic(response.residuals["resid_post"][0], answers[k])
    wrong = [j for j, p in enumerate(problems) if p.answer != problems[k].answer][:99]
    p_family = family_p(response, scores, wrong)
    for step in pl.Trajectory.of(response, scores).is_peak[0].nonzero()[:, 0].tolist():
        has_read = response.tokens[max(step - 2, 0) : step] == ["Therefore", problems[k].answer]
        found.append((bool(p_family[step] <= 0.05), has_read))
peaks = pd.DataFrame(found, columns=["survives", "just read the stated answer"])
print(f"{peaks['survives'].sum()} of {len(peaks)} peaks survive")
peaks.value_counts().rename("peaks").to_frame()

# %% [markdown]
# Those that survive are steps that have just read the stated answer, where that is right: the vector there has read
# the very digit that the reference ends on. All other peaks, every earlier full stop among them, would be there
# with a wrong answer too. `peaklens trace --null 99` does this for a whole run, with Holm's correction over layers.
#
# ## Bits of the answer?
#
# Many problems have a discrete answer. A probe that is trained on some of them and tells the answers of others from
# the residual stream has *usable information*: how much shorter, in bits, its code for the answer is than without
# looking. That is a lower bound on Shannon information, and it is comparable between steps.
#
# Line the responses up at their ends: the last token is `<eos>`, before it stand the stated answer and its full stop.

# %%
last = 14
# [place, problem, d_model]
streams = torch.stack([r.residuals["resid_post"][0, -last:] for r in responses], dim=1)
labels = torch.tensor([int(problem.answer) for problem in problems])
bits = pl.v_information(streams, labels)
scores = pl.nhsic(streams.transpose(0, 1), answers).mean(0)
table = pd.DataFrame({**bits.to_dict(), "nHSIC": scores.tolist()}, index=range(1 - last, 1))
written = pd.DataFrame([r.tokens[-last:] for r in responses])
table.insert(0, "most often", written.mode().iloc[0].tolist())
table[["most often", "bits", "low", "high", "control_bits", "accuracy", "nHSIC"]].round(2)

# %%
shown = table.rename_axis("steps from the last").reset_index()
title = "Usable bits of the answer"
views.lines(shown, x="steps from the last", y="bits", low="low", high="high", reference=0, title=title)

# %%
views.lines(shown, x="steps from the last", y="nHSIC", title="Mean nHSIC at the same steps")

# %% [markdown]
# Where bits rise, something that tells the answer has become readable. Where nHSIC rises and bits do not, the step
# *resembles* the reference's last position. The column of controls is what the probe finds when labels are shuffled.
#
# ## Around a repair
#
# The toy writes a wrong digit, then `Wait`, then the right one. Which bits are there at each step about the value that
# the operation should come to?

# %%
window, kept = range(-6, 4), []
for r in responses:
    at = next((k for k, token in enumerate(r.tokens) if token == "Wait"), None)
    values = running_values(r.tokens)
    if at is not None and at >= 6 and at + 3 < len(r) and values[at] is not None:
        kept.append((r.residuals["resid_post"][0, [at + k for k in window]], values[at]))
right = torch.tensor([value for _, value in kept])
repair = pl.v_information(torch.stack([x for x, _ in kept], dim=1), right)
around = pd.DataFrame({"steps from Wait": list(window), **repair.to_dict()})
print(f"{len(kept)} repairs")
title = "Bits of the right value"
views.lines(around, x="steps from Wait", y="bits", low="low", high="high", reference=0, title=title)

# %% [markdown]
# At -1 the wrong digit is about to be written, at 0 `Wait`, at +1 the right digit. The right value may be readable
# while the wrong one is written. That does not show that the model has worked it out: these slips are of 36 kinds, so
# whatever tells the kind tells its right value. Whether it is used is found out by patching: `touch_a_thinking_step`.
#
# ## Which errors would that allow?
#
# The paper's theorems bound the error of the best decoder of a representation. They need bits: a score of nHSIC is
# refused. Since usable information is a lower bound, the upper bound on the error holds, and the lower one is a plug-in
# estimate. Neither speaks of the answer that the model states.

# %%
rows = []
for place, k in enumerate(range(1 - last, 1)):
    bound = pl.error_bounds(bits.at(place), entropy=float(bits.entropy[place]), n_answers=10)
    rows.append({"from the last": k, "curve": "at most", "error": bound.upper})
    rows.append({"from the last": k, "curve": "at least (plug-in)", "error": bound.lower})
    rows.append({"from the last": k, "curve": "this probe", "error": 1 - float(bits.accuracy[place])})
views.lines(pd.DataFrame(rows), x="from the last", y="error", by=["curve"], title="Errors of a decoder")

# %% [markdown]
# ## What to conclude
#
# - A peak of nHSIC says that a vector resembles the answer's vector. Whether it would resemble a wrong answer's, too,
#   has to be asked, and on this toy it mostly would: what is left is the step that has read the stated digit.
# - Bits come from many problems and a probe. They say what can be read, not what the model reads.
# - The prompt determines the answer, so Shannon information is there from the start: what grows is *usable*.
# - The same for a whole study: `peaklens study information`, `bounds` and `overlap`.
