"""Texts read in pieces through the cache against texts read whole, and against plain Hugging Face's one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from interp import (
    InputError,
    Intervention,
    PieceResiduals,
    Positions,
    ResidualPieces,
    ResidualSites,
    Site,
    answer_log_probability,
    decode,
    encode,
    log_probability,
    read,
    score,
)
from interp.interventions import HeadAblate, MaskAttention, MeanAblate, SteerResidual
from interp.sampling import outcome

SITES = ("resid_pre", "resid_mid", "resid_post", "z", "k")
EVERY = ResidualSites(sites=SITES)
WHOLE = 10**6


def responses(count: int) -> list[list[int]]:
    """Of different lengths."""
    dice = torch.Generator().manual_seed(5)
    return [torch.randint(3, F.VOCAB, (n,), generator=dice).tolist() for n in (17, 4, 30, 9, 1)[:count]]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Norms are worked out in float32, whatever the model's precision."""
    assert found.keys() == expected.keys()
    for site, values in expected.items():
        assert found[site].shape == values.shape
        error = (found[site] - values).norm(dim=-1)
        assert bool((error <= tolerance * values.norm(dim=-1)).all()), site


@pytest.mark.parametrize("name", F.FAMILIES)
def test_pieces_equal_hugging_faces_one_pass(name: str) -> None:
    piece = 5
    hf, model = F.pair(name, torch.float64)
    prompts, answers = F.prompts(4), responses(4)
    sites = SITES if name != "gpt2" else ("resid_pre", "resid_mid", "resid_post", "z")
    rollouts = read(model, prompts, answers, record=ResidualSites(sites=sites), piece=piece)
    whole = read(model, prompts, answers, record=ResidualSites(sites=sites), piece=WHOLE)
    scores = score(model, prompts, answers, piece=piece)
    for prompt, answer, one, other, scored in zip(prompts, answers, rollouts, whole, scores, strict=True):
        with torch.no_grad():
            out = hf(torch.tensor([prompt + answer]), output_hidden_states=True)
        steps = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        logprobs = out.logits[0, steps].log_softmax(-1)
        expected = logprobs.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(scored.logprobs, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.logprobs, expected.float(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.entropy, -(logprobs.exp() * logprobs).sum(-1).float(), rtol=1e-5, atol=1e-5)
        assert scored.is_greedy.tolist() == (logprobs.argmax(-1) == torch.tensor(answer)).tolist()
        streams = torch.stack([hidden[0, steps] for hidden in out.hidden_states[:-1]])
        torch.testing.assert_close(one.residuals["resid_pre"], streams, rtol=1e-5, atol=1e-5)
        assert_close(one.residuals, other.residuals, 1e-5)
        assert (one.settings.get("piece"), other.settings.get("piece")) == (piece, None)


def test_half_precision_in_pieces_is_half_precision() -> None:
    model = F.bridge("llama", torch.bfloat16)
    prompts, answers = F.prompts(3), responses(3)
    for one, other in zip(
        read(model, prompts, answers, record=EVERY, piece=6), read(model, prompts, answers, record=EVERY), strict=True
    ):
        assert one.residuals["resid_post"].dtype == torch.bfloat16
        assert_close(
            {site: values.float() for site, values in one.residuals.items()},
            {site: values.float() for site, values in other.residuals.items()},
            0.1,
        )


def test_metrics_and_last_tokens_whatever_the_piece() -> None:
    model = F.bridge("gemma3", torch.float64)
    prompts, answers = F.prompts(4), responses(4)
    for metric in (answer_log_probability([5, 9, 77, 8, 30]), log_probability(9)):
        expected = score(model, prompts, answers, metric=metric, piece=WHOLE)
        for piece in (5, 12):
            found = score(model, prompts, answers, metric=metric, piece=piece)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    config = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    for last in (None, 3):
        options: dict[str, Any] = {"last": last, "generation_config": config}
        for one, other in zip(
            score(model, prompts, answers, piece=9, **options), score(model, prompts, answers, **options), strict=True
        ):
            torch.testing.assert_close(one.logprobs, other.logprobs, rtol=1e-6, atol=1e-6)
            assert (len(one.logprobs), one.is_greedy.tolist()) == (len(other.logprobs), other.is_greedy.tolist())


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_edits_at_steps_are_where_they_are_in_a_whole_text(name: str) -> None:
    model = F.bridge(name, torch.float64)
    prompts, answers = F.prompts(3), responses(3)
    push = torch.linspace(-3, 3, 44, dtype=torch.float64)
    plain = read(model, prompts, answers, record=EVERY)
    for edit in (
        MeanAblate(push, 1, [0, 2]),
        SteerResidual(push, 0, positions="response"),
        HeadAblate((0, 1), positions=[1, 3]),
        HeadAblate((1, 0), "resample", plain),
        MaskAttention((1, 3)),
        [MaskAttention((0, 2), of="prompt"), MeanAblate(push, 2, [3])],
    ):
        whole = read(model, prompts, answers, record=EVERY, interventions=edit)
        pieces = read(model, prompts, answers, record=EVERY, interventions=edit, piece=10)
        for one, other in zip(pieces, whole, strict=True):
            assert_close(one.residuals, other.residuals, 1e-5)
        last = [[rollout.residuals["resid_post"][-1, -1] for rollout in some] for some in (pieces, plain)]
        assert any(not torch.allclose(one, free) for one, free in zip(*last, strict=True)), edit


class Sees(Intervention):
    """Notes which positions it is shown."""

    edits = (Site("resid_post", 0),)

    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos ..."], at: Positions) -> None:
        self.seen.append(at.pos.tolist())


def test_interventions_see_each_position_once_in_order() -> None:
    watch = Sees()
    read(F.bridge("llama"), [[5, 6, 7], [8]], [[9, 10, 11], [12]], interventions=watch, piece=2)
    assert watch.seen == [[[-1, -1], [0, 1]], [[-1, -1], [2, 3]], [[0], [4]]]


def test_what_is_handed_on_is_what_is_kept() -> None:
    model = F.bridge("qwen3", torch.float64)
    prompts, answers = F.prompts(4), responses(4)
    parts: dict[int, list[tuple[range, dict[str, Tensor]]]] = {}

    def take(piece: PieceResiduals) -> None:
        copies = {site: values.clone() for site, values in piece.residuals.items()}
        parts.setdefault(piece.row, []).append((piece.steps, copies))

    def joined(row: int) -> dict[str, Tensor]:
        steps = [step for some, _ in parts[row] for step in some]
        assert steps == list(range(len(steps)))
        return {site: torch.cat([values[site] for _, values in parts[row]], 1) for site in parts[row][0][1]}

    record = ResidualPieces(layers=[0, -1], sites=SITES, on_piece=take)
    kept = read(model, prompts, answers, record=ResidualSites(layers=[0, -1], sites=SITES))
    handed = read(model, prompts, answers, record=record, batch_size=3, piece=5)
    assert max(len(some) for some in parts.values()) > 3
    for row, (one, other) in enumerate(zip(handed, kept, strict=True)):
        assert_close(joined(row), other.residuals, 1e-5)
        assert (one.residuals, one.layers) == ({}, ())
        torch.testing.assert_close(one.logprobs, other.logprobs)
    parts.clear()
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    assert [e.residuals for e in encode(model, texts, record=record, piece=5)] == [{}] * 4
    for row, other in enumerate(encode(model, texts, record=ResidualSites(layers=[0, -1], sites=SITES))):
        assert_close(joined(row), other.residuals, 1e-5)


def test_who_is_handed_a_piece_may_run_the_model() -> None:
    model, answer = F.bridge("llama", torch.float64), responses(1)[0]
    found: list[Tensor] = []

    def take(piece: PieceResiduals) -> None:
        encode(model, [[5, 6, 7, 8, 9, 10, 11, 12]])
        found.append(piece.residuals["resid_post"].clone())

    edit = MeanAblate(torch.linspace(-1, 1, 44, dtype=torch.float64), 1, [3])
    kept = read(model, [5, 6], answer, record=ResidualSites(), interventions=edit)
    read(model, [5, 6], answer, record=ResidualPieces(on_piece=take), interventions=edit, piece=5)
    assert len(found) > 2
    torch.testing.assert_close(torch.cat(found, 1), kept.residuals["resid_post"], rtol=1e-5, atol=1e-5)


def test_texts_encoded_in_pieces() -> None:
    model = F.bridge("gpt2", torch.float64)
    texts = F.prompts(5)
    places = [[0, -1], [3, 1, 3], [], [-2], [4, 0]]
    ways: Sequence[dict[str, Any]] = ({}, {"last_only": True}, {"positions": places})
    for options in ways:
        for piece in (1, 6):
            for one, other in zip(
                encode(model, texts, piece=piece, **options), encode(model, texts, **options), strict=True
            ):
                torch.testing.assert_close(one.residuals, other.residuals, rtol=1e-9, atol=1e-9)


def test_a_user_s_hook_sees_a_whole_text_unless_it_takes_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.pieces.CPU_BYTES", 1)
    monkeypatch.setattr("interp.pieces.LEAST", 8)
    model = F.load_without_tokenizer("llama")
    prompt, answer = F.prompts(3)[2], responses(3)[2]
    text = len(prompt) + len(answer) - 1
    assert read(model, prompt, answer).settings["piece"] == 8, "without hooks it would be cut"
    seen: list[tuple[int, int]] = []
    shown = [("blocks.1.attn.hook_pattern", lambda pattern, hook: seen.append(tuple(pattern.shape[-2:])))]
    with model.hooks(fwd_hooks=shown):
        assert "piece" not in read(model, prompt, answer).settings
        assert seen == [(text, text)]
        seen.clear()
        assert read(model, prompt, answer, piece=20).settings["piece"] == 20
        assert seen == [(20, 20), (20, 40), (text - 40, text)]
    # The third position of the text, not of each piece.
    with model.hooks(fwd_hooks=[("blocks.0.hook_out", _third)]):
        hooked = read(model, prompt, answer, record=ResidualSites())
        torch.testing.assert_close(hooked.logprobs, read(model, prompt, answer, piece=WHOLE).logprobs)
        assert not torch.allclose(hooked.logprobs, read(model, prompt, answer, piece=9).logprobs)


def _third(residual: Tensor, hook: Any) -> Tensor:
    residual = residual.clone()
    residual[:, 2] *= -3
    return residual


def test_how_texts_are_cut_does_not_hang_on_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many long texts fewer are read at a time, and the numbers are those of each alone."""
    model = F.bridge("llama", torch.float64)
    prompts, answers = F.prompts(4), responses(4)
    alone = [read(model, prompt, answer, piece=WHOLE) for prompt, answer in zip(prompts, answers, strict=True)]
    monkeypatch.setattr("interp.pieces.CPU_BYTES", 60_000)
    monkeypatch.setattr("interp.pieces.LEAST", 16)
    together = read(model, prompts, answers, record=EVERY)
    assert len({rollout.settings.get("piece") for rollout in together}) > 1
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs)


@pytest.mark.parametrize("rules", [False, {"repetition_penalty": 1.3}])
def test_logits_are_judged_some_at_a_time(monkeypatch: pytest.MonkeyPatch, rules: Any) -> None:
    model = F.bridge("llama", torch.float64)
    prompts, answers = F.prompts(3), responses(3)
    whole = read(model, prompts, answers, generation_config=rules)
    scored = score(model, prompts, answers, generation_config=rules, last=3)
    monkeypatch.setattr("interp.given.WIDE_BYTES", 4 * F.VOCAB * 7)
    sizes: list[int] = []

    def seen(logits: Tensor, tokens: Tensor) -> Any:
        sizes.append(len(logits))
        return outcome(logits, tokens)

    monkeypatch.setattr("interp.given.outcome", seen)
    for one, other in zip(read(model, prompts, answers, generation_config=rules), whole, strict=True):
        torch.testing.assert_close((one.logprobs, one.entropy), (other.logprobs, other.entropy))
    assert sorted(sizes) == [2, 3, 4, 7, 7, 7, 7, 7, 7], "30, 17 and 4 positions by sevens"
    monkeypatch.setattr("interp.given.WIDE_BYTES", 1)
    for one, other in zip(score(model, prompts, answers, generation_config=rules, last=3), scored, strict=True):
        torch.testing.assert_close(tuple(one), tuple(other))


def test_what_is_held_until_it_is_handed_on_makes_pieces_smaller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = F.bridge("llama", torch.float64)
    prompt, answer = F.prompts(3)[2], responses(3)[2]
    monkeypatch.setattr("interp.pieces.CPU_BYTES", budget := 60_000)
    monkeypatch.setattr("interp.pieces.LEAST", 2)
    handed: list[int] = []

    def take(piece: PieceResiduals) -> None:
        handed.append(sum(values.nbytes for values in piece.residuals.values()))

    def piece(record: ResidualSites) -> int:
        return read(model, prompt, answer, record=record).settings["piece"]

    kept, streams = piece(EVERY), {"sites": SITES[:3]}
    one = piece(ResidualPieces(layers=[0], on_piece=take))
    every = piece(ResidualPieces(**streams, on_piece=take))
    assert kept >= one > every
    assert piece(ResidualSites(**streams, folder=tmp_path / "kept")) == every
    assert max(handed) <= 2 * budget
    handed.clear()
    encode(model, [prompt + answer], record=ResidualPieces(**streams, on_piece=take))
    assert len(handed) > 2
    assert max(handed) <= 2 * budget


def test_long_prompts_are_read_in_pieces_by_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    model, watch = F.bridge("gemma3", torch.float64), Sees()
    push = torch.linspace(-1, 1, 44, dtype=torch.float64)
    options: dict[str, Any] = {"max_new_tokens": 4, "record": EVERY}
    edits = [MeanAblate(push, 1, "all"), watch]
    whole = decode(model, F.prompts(4), interventions=edits, **options)
    assert len(watch.seen) == 4
    monkeypatch.setattr("interp.pieces.CPU_BYTES", 1)
    monkeypatch.setattr("interp.pieces.LEAST", 8)
    watch.seen.clear()
    for one, other in zip(decode(model, F.prompts(4), interventions=edits, **options), whole, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert_close(one.residuals, other.residuals, 1e-5)
    assert [len(positions[0]) for positions in watch.seen] == [7, 7, 5, 1, 1, 1]


def test_what_does_not_go_in_pieces_is_refused() -> None:
    model, record = F.bridge("llama"), ResidualPieces(on_piece=lambda piece: None)
    for call, text in (
        (lambda: read(model, [5], [6], piece=0), "read: expected piece at least 1"),
        (lambda: encode(model, [[5]], piece=2.5), "encode: expected"),
        (lambda: score(model, [[5]], [[6]], piece=-1), "score: expected piece at least 1"),
        (lambda: decode(model, [5], max_new_tokens=1, record=record), "decode: expected ResidualSites or ResidualStr"),
        (
            lambda: encode(model, [[5]], record=record, last_only=True),
            "encode: expected ResidualPieces, or a folder, of all",
        ),
        (lambda: ResidualPieces(on_piece="print"), "on_piece as a function"),
    ):
        with pytest.raises(InputError, match=text):
            call()
