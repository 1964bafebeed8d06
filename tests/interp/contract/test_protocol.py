"""Everything the intervention protocol allows, each ability tested by its effect against plain Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import families as F
import pytest
import torch
from references import asked_once, continued, hf_logits, hf_residuals, modules
from torch import Tensor

from interp import InputError, Intervention, Positions, ResidualSites, Row, Site, Step, decode

NEW = 8


class Recycle(Intervention):
    """Block ``extract``'s output becomes block ``inject``'s input, for prompts ``who`` at every ``every``-th step."""

    def __init__(self, extract: int, inject: int, who: Sequence[int], every: int, repeats: int = 1) -> None:
        self.extract, self.inject, self.who, self.every, self.repeats = extract, inject, set(who), every, repeats
        self.reads, self.injects = (Site("resid_post", extract),), (inject,)
        self._logits: dict[int, list[Tensor]] = {}
        self._lengths: list[int] = []

    def before_choice(self, step: Step) -> None:
        which = [i for i, row in enumerate(step.rows) if row.index in self.who and step.t % self.every == 0]
        for _ in range(self.repeats if which else 0):
            step.rerun(which, self.inject, step.residual(self.reads[0])[which])
            for i in which:
                step.rows[i].mark(self, "recycled")
        for i, row in enumerate(step.rows):
            self._logits.setdefault(row.index, []).append(step.logits[i].clone().cpu())
        self._lengths.append(step._cache.length - step._cache.pad_columns[0] - len(step.rows[0].prompt_ids) - step.t)


@asked_once
def cacheless_recycle(
    hf: Any, prompt: list[int], new: int, extract: int, inject: int, every: int, repeats: int
) -> tuple[list[int], list[Tensor]]:
    """The same by definition: full forward passes, every substitution so far applied in each."""
    ids, swaps, seen = list(prompt), {}, []
    for t in range(new):
        edits = {("resid_pre", inject): swaps}
        logits = hf_logits(hf, ids, edits)
        if t % every == 0:
            for _ in range(repeats):
                pos = len(ids) - 1
                swaps[pos] = block_output(hf, ids, edits, extract)[pos]
                logits = hf_logits(hf, ids, edits)
        seen.append(logits)
        ids.append(int(logits.argmax()))
        if ids[-1] == 1:
            break
    return ids[len(prompt) :], seen


@torch.no_grad()
def block_output(hf: Any, ids: list[int], edits: dict[tuple[str, int], dict[int, Tensor]], layer: int) -> Tensor:
    caught: list[Tensor] = []
    handle = modules(hf)[0][layer].register_forward_hook(
        lambda _m, _a, out: caught.append((out[0] if isinstance(out, tuple) else out)[0].clone())
    )
    try:
        hf_logits(hf, ids, edits)
    finally:
        handle.remove()
    return caught[0]


@pytest.mark.parametrize("family", F.FAMILIES)
@pytest.mark.parametrize(("extract", "inject", "repeats"), [(1, 1, 1), (2, 0, 2)])
def test_a_position_run_again_equals_a_cacheless_reference(
    family: str, extract: int, inject: int, repeats: int
) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts()
    recycle = Recycle(extract, inject, who=[0, 2, 3], every=3, repeats=repeats)
    rollouts = decode(model, prompts, max_new_tokens=NEW, interventions=[recycle])
    plain = decode(model, prompts, max_new_tokens=NEW)
    assert set(recycle._lengths) == {0}, "one cache entry a position"
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        if i in recycle.who:
            tokens, logits = cacheless_recycle(hf, prompt, NEW, extract, inject, every=3, repeats=repeats)
            assert rollout.token_ids.tolist() == tokens
            for ours, theirs in zip(recycle._logits[i], logits, strict=True):
                assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
            assert [e.step for e in rollout.events] == [t for t in range(0, len(tokens), 3) for _ in range(repeats)]
        else:
            assert rollout.token_ids.tolist() == plain[i].token_ids.tolist()
    assert any(a.token_ids.tolist() != b.token_ids.tolist() for a, b in zip(rollouts, plain, strict=True))


def test_recording_keeps_the_last_pass_and_parts_the_stream_at_the_injection() -> None:
    model = F.bridge("llama", torch.float64)
    record = ResidualSites(sites=("resid_pre", "resid_post"))
    rollout = decode(model, F.prompts(1), max_new_tokens=4, record=record, interventions=[Recycle(2, 1, [0], every=2)])[
        0
    ]
    plain = decode(model, F.prompts(1), max_new_tokens=4, record=record)[0]
    pre, post = rollout.residuals["resid_pre"], rollout.residuals["resid_post"]
    torch.testing.assert_close(pre[1, 0], plain.residuals["resid_post"][2, 0])  # first pass's output of block 2
    torch.testing.assert_close(post[0, 0], plain.residuals["resid_post"][0, 0])  # below the injection nothing changed
    assert not torch.allclose(pre[1, 0], post[0, 0])
    torch.testing.assert_close(pre[1, 1], post[0, 1])  # step 1 was not recycled


class Replace(Intervention):
    """The stream at ``site`` becomes ``value`` at position ``pos`` of prompts ``who``."""

    def __init__(self, site: Site, value: Tensor, who: Sequence[int], pos: int) -> None:
        self.edits, self.value, self.who, self.pos = (site,), value, set(who), pos

    def edit_residual(self, site: Site, residual: Tensor, at: Positions) -> Tensor | None:
        who = torch.tensor([row.index in self.who for row in at.rows], device=at.pos.device)
        mine = who[:, None] & (at.pos == self.pos)
        return torch.where(mine[..., None], self.value.to(residual), residual)


@pytest.mark.parametrize(
    ("family", "name", "offset"),  # a prompt position; a response position
    [
        *(("llama", name, offset) for name in ("resid_pre", "resid_post") for offset in (-2, 3)),
        ("gemma3", "resid_pre", 3), ("gemma3", "resid_post", -2), ("gpt2", "resid_pre", -2), ("gpt2", "resid_post", 3),
        ("qwen2", "resid_pre", 3), ("qwen3", "resid_post", -2),
    ],
)  # fmt: skip
def test_an_edit_of_chosen_rows_and_positions_equals_hugging_face(family: str, name: str, offset: int) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts(4)
    value = 3 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    who, layer = 2, 1
    pos = len(prompts[who]) + offset
    edit = Replace(Site(name, layer), value, [who], pos)
    rollouts = decode(model, prompts, max_new_tokens=6, interventions=[edit])
    plain = decode(model, prompts, max_new_tokens=6)
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        if i == who:
            ids = list(prompt)
            for step, token in enumerate(rollout.token_ids.tolist()):
                logits = hf_logits(hf, ids, {(name, layer): {pos: value}})
                assert int(logits.argmax()) == token
                torch.testing.assert_close(
                    logits.log_softmax(-1)[token].float(), rollout.logprobs[step], atol=1e-4, rtol=1e-4
                )
                ids.append(token)
        else:
            assert rollout.token_ids.tolist() == plain[i].token_ids.tolist()
    assert not torch.equal(rollouts[who].logprobs, plain[who].logprobs), "the edit had no effect"


@pytest.mark.parametrize("family", F.FAMILIES)
def test_resid_mid_is_written_not_only_shown_to_the_mlp(family: str) -> None:
    """Writing v at resid_mid makes the block's output v + mlp(norm(v)), recomputed here with Hugging Face's modules."""
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompt = F.prompts(2)[1]
    value = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    edit = Replace(Site("resid_mid", 1), value, [0], len(prompt) - 1)
    record = ResidualSites(layers=1, sites=("resid_mid", "resid_post"))
    rollout = decode(model, [prompt], max_new_tokens=1, interventions=[edit], record=record)[0]
    blocks, norms, _ = modules(hf)
    with torch.no_grad():
        mlp = blocks[1].mlp(norms[1](value[None, None]))
        if hasattr(blocks[1], "post_feedforward_layernorm"):
            mlp = blocks[1].post_feedforward_layernorm(mlp)
    torch.testing.assert_close(rollout.residuals["resid_mid"][0, 0], value)
    torch.testing.assert_close(rollout.residuals["resid_post"][0, 0], value + mlp[0, 0], atol=1e-6, rtol=1e-6)


class Ban(Intervention):
    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)

    def before_choice(self, step: Step) -> None:
        def ban(logits: Tensor, indices: list[int]) -> Tensor:
            return logits.index_fill(-1, torch.tensor(self.ids, device=logits.device), float("-inf"))

        step.edit_logits(ban)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_edited_logits_equal_hugging_faces_suppress_tokens(temperature: float) -> None:
    hf, model = F.hf_model("llama", torch.float64), F.bridge("llama", torch.float64)
    prompts = F.prompts(3)
    plain = decode(model, prompts, max_new_tokens=NEW, temperature=temperature)
    banned = sorted({t for r in plain for t in r.token_ids.tolist()[:5]})
    rollouts = decode(model, prompts, max_new_tokens=NEW, interventions=[Ban(banned)], temperature=temperature)
    assert not {t for r in rollouts for t in r.token_ids.tolist()} & set(banned)
    if temperature == 0:
        for prompt, rollout in zip(prompts, rollouts, strict=True):
            ids = torch.tensor([prompt])
            out = hf.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, suppress_tokens=banned
            )
            assert out[0, len(prompt) :].tolist() == rollout.token_ids.tolist()


def test_logit_edits_hold_after_a_position_is_run_again() -> None:
    model = F.bridge("llama", torch.float64)
    recycled = decode(model, F.prompts(2), max_new_tokens=6, interventions=[Recycle(1, 1, [0, 1], every=1)])
    banned = sorted({t for r in recycled for t in r.token_ids.tolist()})
    for order in ([Ban(banned), Recycle(1, 1, [0, 1], every=1)], [Recycle(1, 1, [0, 1], every=1), Ban(banned)]):
        rollouts = decode(model, F.prompts(2), max_new_tokens=6, interventions=order)
        assert not {t for r in rollouts for t in r.token_ids.tolist()} & set(banned)


def test_everything_banned_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="no token left to choose, at step 0"):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, interventions=[Ban(range(F.VOCAB))])


class Steps(Intervention):
    """Calls ``act(step, i, row)`` after the choice of every row."""

    def __init__(self, act: Any, extra_tokens: int = 0) -> None:
        self._act, self.extra_tokens = act, extra_tokens

    def after_choice(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            self._act(step, i, row)


def test_forced_tokens_equal_a_prefilled_prompt() -> None:
    hf, model = F.hf_model("gemma3", torch.float64), F.bridge("gemma3", torch.float64)
    forced = [40, 41, 42]

    def act(step: Step, i: int, row: Row) -> None:
        if row.index == 1 and step.t == 2:
            step.force(i, forced)

    prompts = F.prompts(3)
    plain = decode(model, prompts, max_new_tokens=10)
    rollouts = decode(model, prompts, max_new_tokens=10, interventions=[Steps(act)])
    head = plain[1].token_ids.tolist()[:3]
    assert rollouts[1].token_ids.tolist() == head + forced + continued(hf, [*prompts[1], *head, *forced], 4)
    assert rollouts[0].token_ids.tolist() == plain[0].token_ids.tolist()
    assert rollouts[2].token_ids.tolist() == plain[2].token_ids.tolist()


def test_tokens_forced_at_the_beginning() -> None:
    class Begin(Intervention):
        def begin(self, row: Row) -> None:
            row.force([50, 51])

    hf, model = F.hf_model("llama", torch.float64), F.bridge("llama", torch.float64)
    prompt = F.prompts(1)[0]
    rollout = decode(model, [prompt], max_new_tokens=7, interventions=[Begin()])[0]
    assert rollout.token_ids.tolist() == [50, 51, *continued(hf, [*prompt, 50, 51], 5)]


def test_replace_end_and_keep() -> None:
    hf, model = F.hf_model("llama", torch.float64), F.bridge("llama", torch.float64)
    prompts = F.prompts(3)
    free = [r.token_ids.tolist() for r in decode(model, prompts, max_new_tokens=10)]

    def act(step: Step, i: int, row: Row) -> None:
        if row.index == 0 and step.t == 1:
            step.replace(i, [60, 61])
        if row.index == 1 and step.t == 4:
            step.end(i, "enough")
        if row.index == 2 and step.finishing[i] == "stop":
            step.keep(i)

    stop = [free[2][3]]
    rollouts = decode(model, prompts, max_new_tokens=10, interventions=[Steps(act)], stop=stop)
    head = [free[0][0], 60, 61]
    expected = head + continued(hf, [*prompts[0], *head], 7)
    cut = expected.index(stop[0]) + 1 if stop[0] in expected else 10
    assert rollouts[0].token_ids.tolist() == expected[:cut]
    if stop[0] not in free[1][:5]:
        assert rollouts[1].token_ids.tolist() == free[1][:5]
        assert rollouts[1].finish_reason == "enough"
    assert rollouts[2].token_ids.tolist() == free[2], "kept going after its stop token"


def test_a_response_may_grow_by_what_an_intervention_asked_for() -> None:
    hf, model = F.hf_model("llama", torch.float64), F.bridge("llama", torch.float64)
    prompt = F.prompts(1)[0]

    def act(step: Step, i: int, row: Row) -> None:
        if step.finishing[i] == "length" and row.limit == 6:
            step.extend(i, 6 + 4)
            step.force(i, [70])

    rollout = decode(model, [prompt], max_new_tokens=6, interventions=[Steps(act, extra_tokens=4)])[0]
    head = [*continued(hf, prompt, 6), 70]
    assert rollout.token_ids.tolist() == head + continued(hf, prompt + head, 3)
    assert rollout.finish_reason == "length"


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_scratch_tokens_show_the_future_and_leave_no_trace(family: str) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts(4)
    seen: dict[tuple[int, int], list[int]] = {}

    class Probe(Intervention):
        def before_choice(self, step: Step) -> None:
            if step.t in (0, 5):
                which = [i for i, row in enumerate(step.rows) if row.index in (1, 3)]
                scratch = step.scratch(which, [80, 81], new_tokens=4)
                for i, tokens in zip(which, scratch.token_ids.tolist(), strict=True):
                    seen[step.rows[i].index, step.t] = tokens

    record = ResidualSites()
    plain = decode(model, prompts, max_new_tokens=9, record=record)
    probed = decode(model, prompts, max_new_tokens=9, record=record, interventions=[Probe()])
    for a, b in zip(plain, probed, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert torch.equal(a.residuals["resid_post"], b.residuals["resid_post"])
    for (index, t), tokens in seen.items():
        text = [*prompts[index], *plain[index].token_ids.tolist()[:t], 80, 81]
        want = continued(hf, text, 4)
        assert tokens[: len(want)] == want
    assert len(seen) == 4


def test_reading_a_residual_while_decoding() -> None:
    hf, model = F.hf_model("qwen2"), F.bridge("qwen2")
    seen: list[Tensor] = []

    class Look(Intervention):
        reads = (Site("resid_post", 1), Site("ln_final"))

        def before_choice(self, step: Step) -> None:
            seen.append(step.residual(Site("resid_post", 1))[0].clone().cpu())

    prompt = F.prompts(2)[1]
    rollout = decode(model, [prompt], max_new_tokens=5, interventions=[Look()])[0]
    expected = hf_residuals(hf, prompt + rollout.token_ids.tolist())["resid_post"][1, len(prompt) - 1 : -1]
    torch.testing.assert_close(torch.stack(seen), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Recycle(1, 7, [0], every=1), "Recycle: expected a layer from 0 to 2, received layer 7 for resid_pre"),
        (
            Replace(Site("resid_post", 9), torch.zeros(44), [0], 0),
            "Replace: expected a layer from 0 to 2, received layer 9",
        ),
        (Steps(lambda step, i, row: step.force(i, [999])), "force tokens: expected token ids from 0 to 100"),
        (Steps(lambda step, i, row: step.replace(i, [-3])), "replace a token: expected token ids from 0 to 100"),
    ],
)
def test_interventions_that_cannot_work_are_refused(intervention: Intervention, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, interventions=[intervention])


def test_undeclared_reads_and_reruns_are_refused() -> None:
    class Sneak(Intervention):
        def before_choice(self, step: Step) -> None:
            step.rerun([0], 1, torch.zeros(1, 44))

    class Peek(Intervention):
        def before_choice(self, step: Step) -> None:
            step.residual(Site("resid_pre", 0))

    with pytest.raises(InputError, match="expected a layer listed in the intervention's injects"):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, interventions=[Sneak()])
    with pytest.raises(InputError, match="expected a site listed in the intervention's reads"):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, interventions=[Peek()])


def test_interventions_are_described_in_the_settings() -> None:
    rollout = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, interventions=[Ban([5, 6])])[0]
    assert rollout.settings["interventions"] == [{"name": "Ban", "ids": [5, 6]}]


def test_prepare_resolves_an_intervention_for_the_model() -> None:
    class FavourLast(Intervention):
        """Emits the vocabulary's last token, which it learns from the model."""

        def __init__(self, token: int = -1) -> None:
            self.token = token

        def prepare(self, facts: Any) -> Intervention:
            return FavourLast(facts.d_vocab - 1)

        def before_choice(self, step: Step) -> None:
            assert self.token == F.VOCAB - 1
            token = torch.tensor([self.token], device=step.logits.device)
            step.edit_logits(lambda logits, indices: logits.index_fill(-1, token, 1e9))

    original = FavourLast()
    rollout = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, interventions=[original])[0]
    assert rollout.token_ids.tolist() == [F.VOCAB - 1] * 3
    assert original.token == -1
    assert rollout.settings["interventions"] == [{"name": "FavourLast", "token": F.VOCAB - 1}]
