"""What plain Hugging Face says, by hooks on its own modules: what every engine is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import families as F
import pytest
import torch
from torch import Tensor

from interp import InputError, Intervention, Rollout, Step, decode

SITES = ("resid_pre", "resid_mid", "resid_post", "ln_final")
WITHIN = ("attn_out", "mlp_out", "q", "k", "v", "z")
MODELS = (*F.FAMILIES, "toy")


def modules(hf: Any) -> tuple[list[Any], list[Any], Any]:
    """Blocks, the norm before each MLP, the final norm."""
    if hasattr(hf, "transformer"):
        return list(hf.transformer.h), [b.ln_2 for b in hf.transformer.h], hf.transformer.ln_f
    blocks = list(hf.model.layers)
    gemma = hasattr(blocks[0], "pre_feedforward_layernorm")
    norms = [b.pre_feedforward_layernorm if gemma else b.post_attention_layernorm for b in blocks]
    return blocks, norms, hf.model.norm


@torch.no_grad()
def hf_residuals(hf: Any, ids: list[int]) -> dict[str, torch.Tensor]:
    """Site to ``[layer, pos, d_model]``: block inputs, inputs of the norm before the MLP, block and norm outputs."""
    blocks, norms, final = modules(hf)
    caught: dict[str, list[torch.Tensor]] = {site: [] for site in SITES}

    def first(value: Any) -> torch.Tensor:
        return (value[0] if isinstance(value, tuple) else value)[0].clone()

    handles = []
    for block, norm in zip(blocks, norms, strict=True):
        handles.append(
            block.register_forward_pre_hook(
                lambda _m, args, kwargs: caught["resid_pre"].append(
                    first(args[0] if args else kwargs["hidden_states"])
                ),
                with_kwargs=True,
            )
        )
        handles.append(block.register_forward_hook(lambda _m, _a, out: caught["resid_post"].append(first(out))))
        handles.append(norm.register_forward_pre_hook(lambda _m, args: caught["resid_mid"].append(first(args[0]))))
    handles.append(final.register_forward_hook(lambda _m, _a, out: caught["ln_final"].append(first(out))))
    try:
        hf(torch.tensor([ids]))
    finally:
        for handle in handles:
            handle.remove()
    return {site: torch.stack(values) for site, values in caught.items()}


def hf_places(hf: Any, layer: int) -> dict[str, tuple[Any, bool, slice]]:
    """Of each site within a block: a module, whether the site is its input (else its output), and which columns."""
    block, whole = modules(hf)[0][layer], slice(None)
    if hasattr(block, "attn"):  # GPT-2 has one projection for q, k and v
        width = block.attn.embed_dim
        found = {name: (block.attn.c_attn, False, slice(n * width, (n + 1) * width)) for n, name in enumerate("qkv")}
        out = block.attn.c_proj
        return found | {"z": (out, True, whole), "attn_out": (out, False, whole), "mlp_out": (block.mlp, False, whole)}
    attn, is_gemma = block.self_attn, hasattr(block, "pre_feedforward_layernorm")
    return {
        **{name: (getattr(attn, f"{name}_proj"), False, whole) for name in "qkv"},
        "z": (attn.o_proj, True, whole),
        "attn_out": (block.post_attention_layernorm if is_gemma else attn.o_proj, False, whole),
        "mlp_out": (block.post_feedforward_layernorm if is_gemma else block.mlp, False, whole),
    }


@torch.no_grad()
def hf_within(
    hf: Any, ids: Sequence[int], edit: Callable[[str, int, Tensor], Tensor | None] | None = None, mask: Any = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits ``[pos, d_vocab]`` of one full pass, and each site within blocks as ``[layer, pos, ...]``, by head.

    ``edit(site, layer, values)`` may give new values, which are what is kept; ``mask`` is a 4-D additive mask.
    """
    config, caught, handles = hf.config, {site: [] for site in WITHIN}, []
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def act(site: str, layer: int, columns: slice, value: Tensor) -> Tensor:
        mine = value[0, :, columns]
        mine = mine if site in ("attn_out", "mlp_out") else mine.unflatten(-1, (-1, d_head))
        new = None if edit is None else edit(site, layer, mine.clone())
        caught[site].append(mine if new is None else new)
        value = value.clone()
        value[0, :, columns] = caught[site][-1].reshape(len(mine), -1)
        return value

    for layer in range(len(modules(hf)[0])):
        for site, (module, is_input, columns) in hf_places(hf, layer).items():
            do = partial(act, site, layer, columns)
            if is_input:
                handles.append(module.register_forward_pre_hook(lambda _m, args, do=do: (do(args[0]), *args[1:])))
            else:
                handles.append(module.register_forward_hook(lambda _m, _a, out, do=do: do(out)))
    try:
        logits = hf(torch.tensor([list(ids)]), **({} if mask is None else {"attention_mask": mask})).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return logits, {site: torch.stack(values) for site, values in caught.items()}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    assert ours.shape == theirs.shape, what
    error = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    assert float(error.max()) <= 1e-4, f"{what}: relative error {float(error.max()):.2e}"


def check(hf: Any, rollout: Any) -> None:
    ids = [*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()]
    expected = hf_residuals(hf, ids)
    start = len(rollout.prompt_ids) - 1
    for site in SITES:
        assert_close(rollout.residuals[site], expected[site][:, start : start + len(rollout)], site)


@torch.no_grad()
def hf_logits(hf: Any, ids: list[int], edits: dict[tuple[str, int], dict[int, Tensor]]) -> Tensor:
    """Logits at the last position of a full forward pass in which ``edits[site, layer][pos]`` replaces the stream.

    resid_mid is written where it is a tensor of its own: as the sum that the block's second half starts from, by
    shifting what attention adds.
    """
    blocks, _, _ = modules(hf)
    handles = []
    for (site, layer), at in edits.items():

        def put(value: Tensor, at: dict[int, Tensor] = at) -> Tensor:
            value = value.clone()
            for pos, new in at.items():
                if pos < value.shape[1]:
                    value[0, pos] = new
            return value

        if site == "resid_pre":

            def pre(_m: Any, args: Any, kwargs: Any, put: Any = put) -> Any:
                if args:
                    return (put(args[0]), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": put(kwargs["hidden_states"])}

            handles.append(blocks[layer].register_forward_pre_hook(pre, with_kwargs=True))
        elif site == "resid_post":
            handles.append(
                blocks[layer].register_forward_hook(
                    lambda _m, _a, out, put=put: (put(out[0]), *out[1:]) if isinstance(out, tuple) else put(out)
                )
            )
        else:
            raise ValueError(site)
    try:
        return hf(torch.tensor([ids])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def asked_once(say: Callable[..., Any]) -> Callable[..., Any]:
    """What plain Hugging Face says hangs on no engine or batch: the same model is asked once, of the same numbers.

    ``say(hf, ...)`` must hang on the model, its generation config and arguments of numbers and words alone.
    """
    kept: dict[Any, tuple[Any, Any]] = {}

    @wraps(say)
    def ask(hf: Any, *args: Any, **named: Any) -> Any:
        key = id(hf), repr(hf.generation_config.to_dict()), _key(args), _key(named)
        if key not in kept:
            kept[key] = hf, say(hf, *args, **named)  # the model is kept, and so its number
        return kept[key][1]

    return ask


def _key(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _key(one)) for name, one in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_key, value))
    if isinstance(value, (set, frozenset)):
        return frozenset(map(_key, value))
    assert value is None or isinstance(value, (int, float, str)), f"{type(value)} may change"
    return value


@asked_once
def continued(hf: Any, ids: list[int], new: int, stop: int | None = None) -> list[int]:
    """Greedily, until its end of text or ``stop``, which is then the last."""
    prompt, options = torch.tensor([ids]), {}
    if stop is not None:
        options["eos_token_id"] = [hf.generation_config.eos_token_id, stop]
    out = hf.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False, **options)
    found: list[int] = out[0, len(ids) :].tolist()
    return found


def common_tokens(rollouts: Sequence[Rollout], count: int = 4) -> list[int]:
    """The tokens these responses use most: stand-ins for thinking tokens of random models."""
    counts = torch.bincount(torch.cat([r.token_ids for r in rollouts]))
    return counts.argsort(descending=True, stable=True)[:count].tolist()


def told(rollout: Rollout) -> tuple[Any, ...]:
    """A response as far as two that should be the same are compared."""
    return rollout.prompt_ids.tolist(), rollout.token_ids.tolist(), rollout.logprobs.tolist(), rollout.finish_reason


def assert_refused(model: Any, make: Callable[[], Intervention], message: str) -> None:
    """Refused in these words, and before any of the model ran."""
    passes: list[int] = []

    def count(residual: torch.Tensor, hook: Any) -> None:
        passes.append(1)

    with model.hooks(fwd_hooks=[("blocks.0.hook_in", count)]):
        with pytest.raises(InputError, match=message):
            decode(model, F.prompts(2), max_new_tokens=4, interventions=[make()])
        assert passes == []
        decode(model, F.prompts(1), max_new_tokens=2)
        assert passes == [1, 1], "the counter counts"


class Watch(Intervention):
    """Keeps the logits every token was chosen from, and which rows were alive; counts cache entries a position."""

    def __init__(self) -> None:
        self._logits: dict[int, list[Tensor]] = {}
        self._alive: list[list[int]] = []
        self._excess: set[int] = set()

    def before_choice(self, step: Step) -> None:
        self._alive.append([row.index for row in step.rows])
        for i, row in enumerate(step.rows):
            self._logits.setdefault(row.index, []).append(step.logits[i].clone().cpu())
            entries = step._cache.length - step._cache.pad_columns[i]
            self._excess.add(entries - len(row.prompt_ids) - step.t)


def steps_close(watch: Watch, row: int, logits: Tensor, start: int) -> None:
    ours, theirs = torch.stack(watch._logits[row]), logits[start:]
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def ids_read(rollout: Rollout) -> list[int]:
    """What the model has read of a response when it chose the last token."""
    return [*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()[:-1]]


def operators(vectors: Tensor) -> Tensor:
    """R = K_c (K_c + eps d I)^-1 of each vector, written out: sigma 50, eps 1e-5."""
    x = vectors.double()
    kernel = torch.exp(-(x[..., :, None] - x[..., None, :]).square() / (2 * 50.0**2))
    centred = kernel - kernel.mean(dim=-1, keepdim=True)
    ridge = 1e-5 * x.shape[-1] * torch.eye(x.shape[-1], dtype=torch.float64)
    return torch.linalg.solve(centred + ridge, centred, left=False)


def literal_scores(steps: Tensor, answers: Tensor) -> Tensor:
    """nHSIC ``[layer, answer, step]`` of every step with every answer of its layer, each one's operator made once."""
    pairs = zip(steps, answers, strict=True)
    return torch.stack([torch.einsum("tij,kji->kt", operators(some), operators(y)) for some, y in pairs])
