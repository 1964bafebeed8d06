"""What a logit reads from the residual stream: the final norm with its scale frozen, then a direction of each token.

    logit_v = cap( sum_c w_c . u_v / s  +  bias_v + b_U[v] )          u_v = weight * W_U[:, v], without its mean under a
                                                                      LayerNorm;  bias_v = norm bias . W_U[:, v]

``s`` is the norm's scale at the place. `Readout.check` holds all of it against logits of the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.anatomy import Anatomy, FinalNorm
from interp.engines.registry import engine_for
from interp.types import Bridge

__all__ = ["Readout", "is_exact", "readout_of"]

_CHUNK = 1 << 13  # rows of the unembedding at a time, where all of them are needed


@dataclass(frozen=True, eq=False)
class Readout:
    """How one model's logits are read off its last stream.

    >>> from interp import load_model
    >>> readout = readout_of(load_model("toy-reasoner"))
    >>> readout.directions(torch.tensor([5, 7])).shape, readout.cap
    (torch.Size([2, 128]), None)

    Attributes:
        norm: the final norm.
        cap: ``c`` of ``c tanh(logit / c)``, or ``None``.
        dtype: that everything is computed in: float32, or float64 for a model in float64.
    """

    norm: FinalNorm
    cap: float | None
    d_vocab: int
    anatomy: Anatomy
    dtype: torch.dtype

    def directions(self, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
        """``u_v``: a write's share of a token's logit is its product with this over the norm's scale."""
        weight, _ = self.anatomy.unembedding(ids)
        weight = weight.to(self.dtype)
        return self.norm.centre(weight * self.norm.weight.to(weight))

    def norm_bias(self, ids: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
        """What the final norm's bias adds to each token's logit; 0 where it has none."""
        weight, biases = self.anatomy.unembedding(ids)
        if self.norm.bias is None:
            return torch.zeros_like(biases, dtype=self.dtype)
        weight = weight.to(self.dtype)
        return weight @ self.norm.bias.to(weight)

    def unembed_bias(self, ids: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
        """``b_U`` of each token; 0 where the unembedding has none."""
        return self.anatomy.unembedding(ids)[1].to(self.dtype)

    def capped(self, logits: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Logits as the model gives them, from what its unembedding gives."""
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def logits(
        self, stream: Float[Tensor, "*place d_model"], ids: Int[Tensor, " token"] | None = None
    ) -> Float[Tensor, "*place token"]:
        """What the model would say after its last block, had it this stream there; of all tokens, or of some.

        Of an earlier layer's stream this is the logit lens.
        """
        normed = self.normed(stream.to(self.dtype))
        chunks = torch.arange(self.d_vocab).split(_CHUNK) if ids is None else (ids,)
        found = []
        for chunk in chunks:
            weight, biases = self.anatomy.unembedding(chunk)
            found.append(normed @ weight.to(normed).T + biases.to(normed))
        return self.capped(torch.cat(found, -1))

    def check(self, stream: Float[Tensor, " d_model"], logits: Float[Tensor, " d_vocab"]) -> float:
        """The largest difference between logits of the model and those read off its stream, over their spread.

        Raises:
            InputError: a model that does more between its last block and its logits than is known here.
        """
        ours = self.logits(stream)[: len(logits)]
        theirs = logits.to(ours)
        spread = float((theirs - theirs.mean()).abs().max())
        error = float((ours - theirs).abs().max())
        if not error <= (1e-4 if is_exact(logits.dtype, logits.device) else 5e-2) * max(spread, 1e-6):
            raise self.anatomy.refusal(
                f"whose logits differ by {error:.3g} from those read off its last stream (spread {spread:.3g})",
                "Hooks on the final norm or unembedding would do that; remove them, or use another model.",
                operation="read logits off the stream",
            )
        return error / max(spread, 1e-6)

    def normed(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
        """What the unembedding is given."""
        bias = None if self.norm.bias is None else self.norm.bias.to(stream)
        return FinalNorm(self.norm.weight.to(stream), bias, self.norm.eps, self.norm.centred)(stream)


def is_exact(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a model computes to float32's digits: not in half precision, and not where products are rounded to TF32.

    >>> is_exact(torch.float32, torch.device("cpu")), is_exact(torch.bfloat16, torch.device("cpu"))
    (True, False)
    """
    rounds = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return dtype == torch.float64 or (dtype == torch.float32 and not rounds)


def readout_of(model: Bridge) -> Readout:
    """How a model's logits are read off its last stream.

    Raises:
        InputError: a final norm or an unembedding whose weights cannot be read (offloaded, quantised).
    """
    engine = engine_for(model, modules=True)
    anatomy = engine.anatomy()
    dtype = torch.float64 if engine.dtype == torch.float64 else torch.float32
    return Readout(anatomy.final_norm(), anatomy.logit_cap, engine.facts.d_vocab, anatomy, dtype)
