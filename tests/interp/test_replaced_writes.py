"""Streams with one write replaced, and what a head reads it from: against literal edits of plain Hugging Face."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_writes import PARTS, USUAL, bridge, hf_model

from interp import InputError
from interp.writes import Component, read_sources, read_writes, replaced_streams, sources
from interp.writes import replacing as home

PROMPT, RESPONSE = [5, 9, 77, 3, 41], [12, 50, 99, 44, 45]
STEP, OTHERS = 3, [0, 1, 4]
# grouped queries, joint weights with positions and biases, scaled writes, an MLP on flat tokens, parallel blocks
FAMILIES = ("llama", "gpt2", "granite", "opt", "neox")


@torch.no_grad()
def literal(family: str, component: Component | None, layer: int) -> torch.Tensor:
    """The stream at the step with the component's own activation replaced by its mean over the other steps.

    Heads by ``z`` at the output projection's input, MLPs at their output, embeddings at the first block's input.
    """
    model, (blocks, output, mlp) = hf_model(family), PARTS.get(family, USUAL)
    blocks = model.get_submodule(blocks)
    at, others = len(PROMPT) - 1 + STEP, [len(PROMPT) - 1 + step for step in OTHERS]
    seen: list[torch.Tensor] = []

    def head(_module: Any, args: Any) -> Any:
        z = args[0].clone()
        width = z.shape[-1] // 4
        mine = slice(component.head * width, (component.head + 1) * width)  # type: ignore[union-attr, operator]
        z[0, at, mine] = args[0][0, others, mine].mean(0)
        return (z, *args[1:])

    def whole(_module: Any, _args: Any, out: torch.Tensor) -> torch.Tensor:
        flat = out.reshape(-1, out.shape[-1]).clone()
        flat[at] = flat[others].mean(0)
        return flat.reshape(out.shape)

    def entering(_module: Any, args: Any, kwargs: Any) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        new = given.clone()
        new[0, at] = given[0, others].mean(0)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    handles = [
        blocks[layer].register_forward_hook(
            lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, at])
        )
    ]
    if component is not None and component.kind == "head":
        handles.append(blocks[component.layer].get_submodule(output).register_forward_pre_hook(head))
    elif component is not None and component.kind == "mlp":
        handles.append(blocks[component.layer].get_submodule(mlp).register_forward_hook(whole))
    elif component is not None:
        handles.append(blocks[0].register_forward_pre_hook(entering, with_kwargs=True))
    try:
        model(torch.tensor([PROMPT + RESPONSE[:-1]]))
    finally:
        for handle in handles:
            handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replaced_write_is_a_literal_edit(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "COLUMNS", 3)  # the text before is read in parts
    model, layer = bridge(family), 1
    writes = read_writes(model, PROMPT, RESPONSE, [[STEP], OTHERS]).upto(layer)
    changes = writes.values[:, 1] - writes.values[:, 0]
    found = replaced_streams(model, PROMPT, RESPONSE, layer, writes.components, {STEP: changes}, batch_size=4)[STEP]
    torch.testing.assert_close(found[0], literal(family, None, layer), atol=1e-4, rtol=1e-4)
    moved = 0.0
    for number, component in enumerate(writes.components):
        if component.kind in ("embed", "pos_embed") and family in ("gpt2", "opt"):
            continue  # together they are what enters: below
        expected = found[0] if component.kind == "attn_bias" else literal(family, component, layer)
        torch.testing.assert_close(found[1 + number], expected, atol=1e-4, rtol=1e-4)
        moved = max(moved, float((found[1 + number] - found[0]).norm()))
    assert moved > 0.1
    entering = changes[[c.layer < 0 for c in writes.components]].sum(0)
    both = replaced_streams(model, PROMPT, RESPONSE, layer, [Component("embed")], {STEP: entering[None]})[STEP]
    torch.testing.assert_close(both[1], literal(family, Component("embed"), layer), atol=1e-4, rtol=1e-4)
    again = replaced_streams(model, PROMPT, RESPONSE, layer, writes.components, {STEP: changes})[STEP]
    torch.testing.assert_close(again, found, atol=1e-5, rtol=1e-5)


def test_several_steps_share_what_was_read() -> None:
    model = bridge("llama")
    writes = read_writes(model, PROMPT, RESPONSE, [[0], [4], OTHERS])
    changes = {step: writes.values[:, 2] - writes.values[:, place] for place, step in ((1, 4), (0, 0))}
    found = replaced_streams(model, PROMPT, RESPONSE, 2, writes.components, changes)
    for place, step in ((0, 0), (1, 4)):
        torch.testing.assert_close(found[step][0], writes.stream[2, place], atol=1e-4, rtol=1e-4)
        alone = replaced_streams(model, PROMPT, RESPONSE, 2, writes.components, {step: changes[step]})[step]
        torch.testing.assert_close(alone, found[step], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"changes": {5: torch.zeros(1, 44)}}, "steps from 0 to 4"),
        ({"changes": {1: torch.zeros(2, 44)}}, r"changes \(1, 44\)"),
        ({"components": [Component("mlp", 2)]}, "components up to layer 1"),
        ({"prompt": [PROMPT, PROMPT], "response": [RESPONSE, RESPONSE]}, "one prompt"),
        ({"layer": 3}, "layers from 0 to 2"),
    ],
)
def test_what_cannot_be_replaced_is_refused(change: dict[str, Any], expected: str) -> None:
    given: dict[str, Any] = {
        "prompt": PROMPT, "response": RESPONSE, "layer": 1, "components": [Component("mlp", 1)],
        "changes": {1: torch.zeros(1, 44)},
    }  # fmt: skip
    with pytest.raises(InputError, match=expected):
        replaced_streams(bridge("llama"), **(given | change))


@torch.no_grad()
def patterns(family: str) -> tuple[torch.Tensor, ...]:
    """Of plain Hugging Face, [layer, head, pos, column]."""
    out = hf_model(family)(torch.tensor([PROMPT + RESPONSE[:-1]]), output_attentions=True)
    return tuple(layer[0] for layer in out.attentions)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_heads_sources_sum_to_its_write(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "COLUMNS", 4)
    model, heads = bridge(family), [Component("head", 2, 3), Component("head", 0, 0), Component("head", 2, 1)]
    places = [[STEP], OTHERS]
    found = read_sources(model, PROMPT, RESPONSE, places, heads)
    expected = patterns(family)
    for n, head in enumerate(heads):
        for place, steps in enumerate(places):
            rows = expected[head.layer][head.head][[len(PROMPT) - 1 + step for step in steps]]
            torch.testing.assert_close(found.patterns[n, place], rows.mean(0), atol=1e-5, rtol=1e-4)
    writes = read_writes(model, PROMPT, RESPONSE, places)
    directions = torch.randn(3, writes.values.shape[-1], generator=torch.Generator().manual_seed(0))
    summed = found.split(directions).sum(-1)
    for n, head in enumerate(heads):
        torch.testing.assert_close(summed[n], writes[head] @ directions[n], atol=1e-4, rtol=1e-4)
    assert found.token_ids.tolist() == PROMPT + RESPONSE[:-1]
    assert bool((found.split(directions)[:, 0, len(PROMPT) + STEP :] == 0).all())  # nobody looks ahead


def test_no_heads_no_sources() -> None:
    found = read_sources(bridge("llama"), PROMPT, RESPONSE, [[1]], [])
    assert found.patterns.shape == (0, 1, len(PROMPT) + 4)
    assert found.split(torch.zeros(0, 44)).shape == (0, 1, len(PROMPT) + 4)


def test_what_is_no_head_is_refused() -> None:
    for head in (Component("mlp", 1), Component("head", 3, 0), Component("head", 1, 4)):
        with pytest.raises(InputError, match="expected heads of"):
            read_sources(bridge("llama"), PROMPT, RESPONSE, [[1]], [head])
    with pytest.raises(InputError, match="steps from 0 to 4"):
        read_sources(bridge("llama"), PROMPT, RESPONSE, [[5]], [Component("head", 1, 1)])


def test_heads_that_give_something_else_are_refused() -> None:
    model = bridge("llama")
    with (
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: z * 1.5)]),
        pytest.raises(InputError, match=r"differs by .* from their values weighed"),
    ):
        read_sources(model, PROMPT, RESPONSE, [[1]], [Component("head", 1, 1)])
