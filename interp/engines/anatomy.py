"""The parts of a model that write into its residual stream, and what reads its end: where they are, and their weights.

What a block's attention adds is ``sum over heads of z_h W_O,h``, plus a bias ``b_O`` in some families; what its MLP
adds is the MLP's output. Some families (Granite) scale both before they are added: that is in `OutputWeights` and in
what is shown of MLPs, so that whatever is told here is what arrives in the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.types import Bridge

__all__ = ["Anatomy", "FinalNorm", "OutputWeights"]


@dataclass(frozen=True, eq=False)
class OutputWeights:
    """How the heads of one layer write: head ``h`` adds ``z[h] @ weight[h]``, and ``bias`` is added once."""

    weight: Float[Tensor, "head d_head d_model"]
    bias: Float[Tensor, " d_model"] | None


@dataclass(frozen=True, eq=False)
class FinalNorm:
    """The norm before the unembedding: ``(h - mean(h)) / scale(h) * weight + bias``, without the mean if not `centred`.

    >>> norm = FinalNorm(torch.tensor([1.0, 2.0]), None, eps=0.0, centred=False)
    >>> norm.scale(torch.tensor([3.0, 4.0])), norm(torch.tensor([3.0, 4.0]))
    (tensor(3.5355), tensor([0.8485, 2.2627]))
    """

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool

    def scale(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place"]:
        """What a stream is divided by: its root mean square, of what is left without its mean if `centred`."""
        return (self.centre(stream).pow(2).mean(-1) + self.eps).sqrt()

    def centre(self, vectors: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
        """The part of vectors that the norm lets through."""
        return vectors - vectors.mean(-1, keepdim=True) if self.centred else vectors

    def __call__(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
        normed = self.centre(stream) / self.scale(stream)[..., None] * self.weight
        return normed if self.bias is None else normed + self.bias


class Anatomy:
    """The parts of a ``TransformerBridge``.

    >>> from interp import load_model
    >>> anatomy = Anatomy(load_model("toy-reasoner"), "toy-reasoner")
    >>> anatomy.output_weights(0).weight.shape
    torch.Size([4, 32, 128])
    """

    def __init__(self, model: Bridge, name: str) -> None:
        self.model, self.name = model, name
        self.family = type(model.original_model).__name__
        self._config = model.original_model.config.get_text_config()

    def refusal(self, received: str, remedy: str, operation: str = "read writes") -> InputError:
        """Why this model's writes cannot be told apart."""
        return InputError(
            operation,
            expected="blocks that add what each head and the MLP write to the residual stream",
            received=f"{self.name} ({self.family}), {received}",
            remedy=remedy,
        )

    def n_heads(self, layer: int) -> int:
        """Attention heads of a layer."""
        inner, d_head = self._inner(layer), int(self.model.cfg.d_head)
        if inner % d_head:
            raise self.refusal(f"whose {inner} attention outputs are not heads of {d_head}", "Use another model.")
        return inner // d_head

    def has_bias(self, layer: int) -> bool:
        """Whether a layer's attention adds a bias of its own."""
        return getattr(self._projection(layer), "bias", None) is not None

    def output_weights(self, layer: int) -> OutputWeights:
        """``W_O`` and ``b_O`` of a layer, as they arrive in the stream."""
        projection, scale = self._projection(layer), self._scale(layer)
        weight = self._matrix(projection).unflatten(0, (self.n_heads(layer), -1))
        bias = getattr(projection, "bias", None)
        return OutputWeights(_scaled(weight, scale), None if bias is None else _scaled(bias.detach(), scale))

    @contextmanager
    def showing(
        self, heads: Callable[[int, Tensor], None], mlp: Callable[[int, Tensor], None], pos: Callable[[Tensor], None]
    ) -> Iterator[None]:
        """Context in which every pass shows ``z`` ``[row, pos, head * d_head]`` and MLP writes ``[row, pos, d_model]``.

        Each is seen after all hooks that anybody has put on it. ``pos`` is shown the positional embedding that is added
        to the token's, in families that have one.
        """
        with ExitStack() as stack:
            for layer, block in enumerate(self.model.blocks):
                stack.callback(_before(self._projection(layer), partial(heads, layer)).remove)
                stack.callback(_after(self._mlp(block), partial(mlp, layer), self._scale(layer)).remove)
            if "pos_embed" in self.model._modules:
                stack.callback(_after(self.model.pos_embed, pos).remove)
            yield

    @contextmanager
    def adding(self, more: Callable[[str, int], Float[Tensor, "row d_model"] | None]) -> Iterator[None]:
        """Context in which the last position of every pass gets ``more(kind, layer)`` beside what is written there.

        The kind is "attn", for what attention writes as a whole, or "mlp"; None adds nothing. It is added last, to what
        all other hooks have left, in the units of the stream.
        """
        with ExitStack() as stack:
            for layer, block in enumerate(self.model.blocks):
                scale = self._scale(layer)
                for kind, module in (("attn", self._projection(layer)), ("mlp", self._mlp(block))):
                    put = partial(_added, more=partial(more, kind, layer), scale=scale)
                    stack.callback(module.register_forward_hook(put).remove)
            yield

    @property
    def has_positions(self) -> bool:
        """Whether positions are embedded and added to the tokens."""
        return "pos_embed" in self.model._modules

    def final_norm(self) -> FinalNorm:
        """The norm that the unembedding reads through."""
        norm = self.model._modules.get("ln_final")
        inner = getattr(norm, "original_component", None)
        if inner is None or not hasattr(norm, "uses_rms_norm"):
            raise self.refusal("which has no norm before its unembedding", "Use another model.")
        weight, bias = getattr(inner, "weight", None), getattr(inner, "bias", None)
        if weight is None:  # a norm without parameters (OLMo)
            weight = next(self.model.original_model.parameters()).new_ones(int(self.model.cfg.d_model))
        if weight.is_meta:
            raise self.refusal("whose weights are offloaded", "Load it onto one device.")
        weight = weight.detach() + 1.0 if norm.uses_weight_offset else weight.detach()
        bias = None if bias is None else bias.detach()
        return FinalNorm(weight, bias, float(norm.config.eps), centred=not norm.uses_rms_norm)

    def unembedding(self, ids: Int[Tensor, " token"]) -> tuple[Float[Tensor, "token d_model"], Float[Tensor, " token"]]:
        """Rows of ``W_U`` and entries of ``b_U`` (0 where a family has none), each times the family's logit scale."""
        head = self.model.unembed.original_component
        weight, bias = head.weight.detach()[ids], getattr(head, "bias", None)
        if weight.is_meta or not weight.is_floating_point():
            raise self.refusal("whose unembedding is offloaded or quantised", "Load it onto one device, unquantised.")
        biases = weight.new_zeros(len(ids)) if bias is None else bias.detach()[ids]
        return _scaled(weight, self.logit_scale), _scaled(biases, self.logit_scale)

    @property
    def has_unembed_bias(self) -> bool:
        """Whether the unembedding adds anything; a bridge gives every family's a bias, of zeros where it had none."""
        bias = getattr(self.model.unembed.original_component, "bias", None)
        return isinstance(bias, Tensor) and not bias.is_meta and bool(bias.any())

    @property
    def logit_scale(self) -> float:
        """What the family multiplies its logits by (Cohere), or one over what it divides them by (Granite)."""
        return float(getattr(self._config, "logit_scale", None) or 1.0) / float(
            getattr(self._config, "logits_scaling", None) or 1.0
        )

    @property
    def logit_cap(self) -> float | None:
        """``c`` of ``c tanh(logit / c)``, in families that cap their logits (Gemma 2)."""
        cap = getattr(self._config, "final_logit_softcapping", None)
        return None if not cap else float(cap)

    # Where the parts are

    def _projection(self, layer: int) -> Any:
        output = getattr(getattr(self.model.blocks[layer], "attn", None), "o", None)
        inner = getattr(output, "original_component", None)
        if not isinstance(inner, torch.nn.Module):
            raise self.refusal(f"whose block {layer} has no output projection of heads", "Use another model.")
        return inner

    def _inner(self, layer: int) -> int:
        return int(self._matrix(self._projection(layer)).shape[0])

    def _matrix(self, projection: Any) -> Float[Tensor, "inner d_model"]:
        """An output projection's weight; GPT-2 stores it the other way round."""
        from transformers.pytorch_utils import Conv1D

        weight = getattr(projection, "weight", None)
        if not isinstance(weight, Tensor) or weight.is_meta or not weight.is_floating_point() or weight.ndim != 2:
            raise self.refusal("whose weights are offloaded or quantised", "Load it onto one device, unquantised.")
        return weight.detach() if isinstance(projection, Conv1D) else weight.detach().T

    def _scale(self, layer: int) -> float:
        return float(getattr(self.model.blocks[layer], "residual_contribution_scale", 1.0))

    def _mlp(self, block: Any) -> Any:
        mlp = getattr(block, "mlp", None)
        if mlp is None:
            raise self.refusal("which has a block without an MLP", "Use another model.")
        # A family whose MLP is no module of its own (OPT) is seen at the last of its layers.
        return mlp if mlp.name is not None else mlp.out


def _scaled(values: Tensor, by: float) -> Tensor:
    return values if by == 1.0 else values * by


def _added(
    _module: torch.nn.Module, _args: Any, output: Any, *, more: Callable[[], Tensor | None], scale: float
) -> Any:
    values, extra = output[0] if isinstance(output, tuple) else output, more()
    if extra is None:
        return None
    # Flat [row * pos, d_model] in families whose MLP works on tokens (OPT).
    shaped = values.reshape(len(extra), -1, values.shape[-1]).clone()
    shaped[:, -1] += (extra / scale).to(shaped)
    shaped = shaped.reshape(values.shape)
    return (shaped, *output[1:]) if isinstance(output, tuple) else shaped


def _before(module: Any, show: Callable[[Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    """Show what a module is given, after every other hook on it."""

    def see(_module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        show(args[0])

    handle: torch.utils.hooks.RemovableHandle = module.register_forward_pre_hook(see)
    return handle


def _after(module: Any, show: Callable[[Tensor], None], scale: float = 1.0) -> torch.utils.hooks.RemovableHandle:
    """Show what a module gives, times the scale, after every other hook on it."""

    def see(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        show(_scaled(output[0] if isinstance(output, tuple) else output, scale))

    handle: torch.utils.hooks.RemovableHandle = module.register_forward_hook(see)
    return handle
