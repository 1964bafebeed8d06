# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {name: python3, display_name: Python 3, language: python}
# ---

# %% [markdown]
# # Touch a thinking step
#
# Watching does not tell whether a step matters. Here you change one and see what follows, in three ways: *suppression*
# (some words are never written), *representation recycling* (RR: a position is run again on its own output) and
# *thinking-token test-time scaling* (TTTS: a response that would end goes on instead). All three are from [Thinking
# Tokens are Information Peaks in LLM Reasoning](https://arxiv.org/abs/2506.02867).
#
# Each comes twice: by hand, as plain TransformerLens hooks that you can read, and ready-made. The model is the bundled
# `toy-reasoner`, whose slips and repairs were planted. Nothing here is evidence about large models.

# %%
import os
from typing import Any

import pandas as pd
import peaklens as pl
import torch
from IPython.display import display

# %%
from analyses.toys.task import read_answer

views, iv = pl.views, pl.interventions
views.load()

# %% [markdown]
# ## What does the model do when it is left alone?

# %%
model, problem = pl.load_model("toy-reasoner"), pl.bundled_problems(1)[0]
before = pl.decode(model, [problem.question], max_new_tokens=120, record=pl.ResidualSites())[0]
words = iv.thinking_token_ids(model, ["Wait", "Hmm"])
ids = [token_id for spellings in words.values() for token_id in spellings]
print(problem.question, "\ngold answer:", problem.answer, "\nits answer:", read_answer(before.text))
before.show("entropy", marks=[step for step, token in enumerate(before.tokens) if token in words])

# %% [markdown]
# `Wait` corrects the digit just written, `Hmm` redoes an operation. Outlined are both.
#
# ## What if it cannot say them?
#
# By hand, it is one hook on the logits: those of the two words become minus infinity. The loop below writes greedily,
# without a cache, so that nothing is hidden.


# %%
def ban(logits: torch.Tensor, hook: Any) -> torch.Tensor:
    logits[..., ids] = float("-inf")
    return logits


@torch.no_grad()
def write(text: list[int], hooks: list[Any], most: int = 120) -> list[int]:
    """Greedy decoding with plain hooks; returns the new tokens."""
    new: list[int] = []
    while len(new) < most and model.tokenizer.eos_token_id not in new:
        with model.hooks(fwd_hooks=hooks):
            new.append(int(model(torch.tensor([text + new]))[0, -1].argmax()))
    return new


# %%
prompt = model.tokenizer(problem.question).input_ids
by_hand = write(prompt, [("unembed.hook_out", ban)])
ready_made = [iv.SuppressTokens(words)]
silent = pl.decode(model, [problem.question], max_new_tokens=120, interventions=ready_made)[0]
print("the same tokens by hand and ready-made:", by_hand == silent.token_ids.tolist())
print("its answer now:", read_answer(silent.text))
views.compare(before, silent, names=("left alone", "suppressed"), title="Without Wait and Hmm")

# %% [markdown]
# They part where the first of the two words stood. The slip itself was there before: suppression takes away its repair,
# and what follows goes on from the wrong digit.
#
# ## What goes on in the model at the `Wait`?
#
# Read each layer through the unembedding (the *logit lens*), first at the step of the digit before it, then at `Wait`.

# %%
at = before.tokens.index("Wait")
views.logit_lens(model, before, at - 1, title="The digit that is taken back, by layer")

# %%
views.logit_lens(model, before, at, title="The Wait, by layer")

# %% [markdown]
# The last layer is on top and the emitted token is outlined. If a lower layer of the first table favours the digit that
# follows the `Wait`, then the right result was in the stream before a later block wrote the slip over it.
#
# ## Where does the model look after `Wait`?

# %%
heads = views.attention(model, before, 0, steps=[at + 1], window=7, title="Layer 0 up to the Wait")
looks = heads.to_frame().query("input_token == 'Wait'").sort_values("attention", ascending=False)
for head, to in looks.groupby("head"):
    first = to.iloc[0]
    print(f"head {head}: {first.source_token}·{first.source_position} ({first.attention:.2f})")
display(heads)

# %% [markdown]
# Click a head to enlarge it. The last row is the position that has just read `Wait` and is about to correct the digit;
# the lines above the figure say where it looks most. Attention shows where something *could* come from; whether it does
# is what patching tells, at the end.
#
# ## What if a position is run again? (RR)
#
# Whenever the next word would be `Wait` or `Hmm`, take block `layer`'s output at this position, put it in as the same
# block's input, and run the blocks from there on again. By hand it takes two hooks on the residual stream.

# %%
layer = 1
recycled: dict[int, torch.Tensor] = {}  # the vectors that go in, by position
latest: dict[str, torch.Tensor] = {}


def put(stream: torch.Tensor, hook: Any) -> torch.Tensor:
    for position, vector in recycled.items():
        stream[:, position] = vector
    return stream


def keep(stream: torch.Tensor, hook: Any) -> None:
    latest["output"] = stream[0, -1].clone()


# %%
text = list(prompt)
hooks = [(f"blocks.{layer}.hook_resid_pre", put), (f"blocks.{layer}.hook_resid_post", keep)]
while text[-1] != model.tokenizer.eos_token_id:
    (choice,) = write(text, hooks, most=1)
    if choice in ids:
        recycled[len(text) - 1] = latest["output"]  # later positions will read this one as it is now
        (choice,) = write(text, hooks, most=1)
    text.append(choice)
print(f"{len(recycled)} positions run again")

# %%
recycle = iv.RecycleRepresentation(layer, words)
again = pl.decode(model, [problem.question], max_new_tokens=120, interventions=[recycle])[0]
print("the same tokens by hand and ready-made:", text[len(prompt) :] == again.token_ids.tolist())
print("its answer now:", read_answer(again.text))
views.compare(before, again, names=("left alone", "recycled"), title=f"RR in block {layer}")

# %% [markdown]
# The word that triggers recycling may itself change, since the token is chosen from the second pass. Try other layers:
# change the number and run the cells again.
#
# ## What if it may not stop yet? (TTTS)
#
# No hook at all: when the response would end and budget is left, `Wait` takes the place of the end. Take a
# problem that the model gets wrong.

# %%
hard, budget = pl.bundled_problems(10)[9], 160
(wait,), end = words["Wait"], model.tokenizer.eos_token_id
text = model.tokenizer(hard.question).input_ids
start = len(text)
while len(text) < start + budget:
    (choice,) = write(text, [], most=1)
    room = len(text) < start + budget - 1
    text.append(wait if choice == end and room else choice)

# %%
longer = iv.ContinueThinking("Wait", budget=budget, final_prompt="")
short = pl.decode(model, [hard.question], max_new_tokens=budget)[0]
long = pl.decode(model, [hard.question], max_new_tokens=budget, interventions=[longer])[0]
print("the same tokens by hand and ready-made:", text[start:] == long.token_ids.tolist())
print("gold:", hard.answer, " alone:", read_answer(short.text), " going on:", read_answer(long.text))
views.compare(short, long, names=("left alone", "thinking on"), title="Wait in place of the end")

# %% [markdown]
# `final_prompt` is the text that asks for the answer when the budget is spent; the toy needs none.
#
# ## Does it hold for more than one problem?
#
# The same problems under every condition, so that they can be compared in pairs.

# %%
n = int(os.environ.get("PEAKLENS_NOTEBOOK_PROBLEMS", "40"))
problems = pl.bundled_problems(n)


def right(interventions: list[pl.Intervention]) -> list[bool]:
    """Which problems end on the gold answer."""
    prompts = [p.question for p in problems]
    responses = pl.decode(model, prompts, max_new_tokens=budget, interventions=interventions)
    return [str(read_answer(r.text)) == p.answer for r, p in zip(responses, problems, strict=True)]


# %%
conditions: dict[str, list[pl.Intervention]] = {
    "left alone": [],
    "Wait, Hmm suppressed": [iv.SuppressTokens(words)],
    "Okay, So suppressed": [iv.SuppressTokens(iv.thinking_token_ids(model, ["Okay", "So"]))],
    "RR in block 1": [recycle],
    "Wait at the end": [longer],
    "start at the end": [iv.ContinueThinking("start", budget=budget, final_prompt="")],
}
results = pd.DataFrame({name: right(how) for name, how in conditions.items()})

# %%
table = results.mean().rename("accuracy").rename_axis("condition").reset_index()
intervals = [pl.stats.wilson(int(count), n) for count in results.sum()]
table["low"], table["high"] = [i.low for i in intervals], [i.high for i in intervals]
print(table.round(2).to_string(index=False))
views.bars(table, label="condition", value="accuracy", low="low", high="high", title=f"{n} problems")

# %% [markdown]
# Two of the conditions are controls: words that have substitutes, and a neutral word at the end, which also buys a
# second pass. A method that works has to beat its control, not only the model left alone.
#
# The 95 % intervals (Wilson's) hold for each condition by itself. To compare two, count the problems that changed: if
# nothing but chance were at work, as many would be gained as lost (McNemar's exact test).

# %%
pairs = [
    ("Wait, Hmm suppressed", "left alone"),
    ("Wait, Hmm suppressed", "Okay, So suppressed"),
    ("RR in block 1", "left alone"),
    ("Wait at the end", "left alone"),
    ("Wait at the end", "start at the end"),
]
tests = [pl.stats.mcnemar(results[new], results[old]) for new, old in pairs]
changes = [(*pair, test.only_a, test.only_b) for pair, test in zip(pairs, tests, strict=True)]
p = [f"{value:.2g}" for value in pl.stats.holm([test.p for test in tests])]
pd.DataFrame(changes, columns=["condition", "against", "gained", "lost"]).assign(p=p)

# %% [markdown]
# `p` is corrected for the number of comparisons (Holm). Few changed problems cannot make a small `p`,
# whatever the accuracies look like.
#
# ## Which vector makes the slip?
#
# The first response computes one operation twice: it slips, and after `Hmm` it gets the same operation right. So the
# two runs have the same words and differ in the result. Put the stream of the right run into the slip, one layer and
# step at a time, and see how much nearer the right digit comes.

# %%
redo = before.tokens.index("Hmm")
operation = before.tokens[redo + 1 : redo + 6]  # label, value, operator, operand, verb
slip = next(t for t in range(redo) if before.tokens[t : t + 5] == operation) + 5
shift = redo + 6 - slip
wrong, fixed = (int(before.token_ids[t]) for t in (slip, slip + shift))
print(*operation, before.tokens[slip], "  and after Hmm:", *operation, before.tokens[slip + shift])
steps = {t: t + shift for t in range(max(0, slip - 6), slip + 1)}
metric = iv.logit_difference(fixed, wrong)
effects = iv.patch_sweep(model, before, before, metric, at=slip, steps=steps)

# %%
print(f"before patching the slip is ahead by {-effects['baseline'][0]:.1f} logits")
views.sweep(effects, title="The right run patched into the slip", label="gain of the right digit")

# %% [markdown]
# A gain larger than what the slip is ahead by turns the slip into the right digit. In the top row only the last column
# can have an effect, since no later position reads the last block's output. Blue further left, in the lower rows, means
# that the digit also depends on an earlier difference between the runs: one of them is about to write `Hmm`.
#
# ## What to conclude
#
# - By hand and ready-made are the same tokens, so the ready-made ones can be read as what the hooks say.
# - A changed text is not yet an effect: that takes many problems, pairs and a control.
# - Patching names the layer and step that carry a difference, for one pair of runs. Other slips may be made elsewhere.
