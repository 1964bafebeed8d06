"""Depth against the dense formula with scipy's divergence, by hand, and over chunk sizes."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

from probes import InputError
from probes.depth import settling_depth

D_VOCAB = 101


def model(seed: int, n_layers: int = 7, n_steps: int = 11, d: int = 13, gain: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    moves = torch.randn(n_layers, n_steps, d, generator=generator)
    weight = torch.randn(d, D_VOCAB, generator=generator) * gain
    return moves.cumsum(dim=0), lambda h, ids: torch.nn.functional.layer_norm(h, (d,)) @ weight[:, ids]


@pytest.mark.parametrize("gain", [0.02, 1.0, 40.0])
@pytest.mark.parametrize(("g", "rho"), [(0.5, 0.85), (0.1, 0.5), (0.0, 1.0)])
def test_equals_the_dense_formula(gain, g, rho):
    residuals, unembed = model(1, gain=gain)
    found = settling_depth(residuals, unembed, D_VOCAB, g=g, rho=rho)
    p = softmax(unembed(residuals, slice(0, D_VOCAB)).double().numpy(), axis=-1)
    n_layers, n_steps = p.shape[:2]
    jsd = jensenshannon(p, np.broadcast_to(p[-1], p.shape), base=2, axis=-1) ** 2
    np.testing.assert_allclose(found.divergence.numpy(), np.nan_to_num(jsd), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.entropy.numpy(), entropy(p, base=2, axis=-1), rtol=1e-9, atol=1e-12)
    assert (found.divergence[-1] == 0).all()
    depth = [next(c for c in range(1, n_layers + 1) if min(found.divergence[:c, t]) <= g) for t in range(n_steps)]
    assert found.depth.tolist() == depth
    assert found.is_deep.tolist() == [c >= math.ceil(rho * n_layers) for c in depth]
    assert found.ratio == sum(found.is_deep.tolist()) / n_steps


@pytest.mark.parametrize("chunk", [1, 7, 100, 101, 8192])
@pytest.mark.parametrize("max_bytes", [1, 50_000, 2**28])
def test_chunks_change_nothing(chunk, max_bytes):
    residuals, widths, spans = model(2)[0].double(), [], set()

    def watched(h, ids):
        logits = unembed_double(h, ids)
        widths.append(logits.numel())
        spans.add(ids.stop - ids.start)
        return logits

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(13, D_VOCAB, generator=generator, dtype=torch.float64)

    def unembed_double(h, ids):
        return h @ weight[:, ids]

    whole = settling_depth(residuals, unembed_double, D_VOCAB)
    found = settling_depth(residuals, watched, D_VOCAB, chunk=chunk, max_bytes=max_bytes)
    torch.testing.assert_close(found.divergence, whole.divergence, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(found.entropy, whole.entropy, rtol=1e-11, atol=1e-12)
    assert torch.equal(found.depth, whole.depth)
    assert found.ratio == whole.ratio
    once = spans == {D_VOCAB}
    assert once == (chunk >= D_VOCAB and max_bytes >= 50_000)
    assert sum(widths) == (1 if once else 2) * 7 * 11 * D_VOCAB, "a vocabulary that fits one chunk is read once"
    assert max(widths) <= max(7, min(7 * 11 * chunk, max_bytes // 8))


def test_by_hand_at_once_in_between_and_only_at_the_last():
    here, there = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([0.0, 9.0, 0.0])
    at_once = torch.stack([here] * 20)
    at_last = torch.stack([there] * 19 + [here])
    at_17 = torch.stack([there] * 16 + [here] * 4)
    at_16 = torch.stack([there] * 15 + [here] * 5)
    # Settles at block 2, leaves again: the minimum counts.
    returns = torch.stack([there, here, *[there] * 17, here])
    residuals = torch.stack([at_once, at_last, at_17, at_16, returns], dim=1)
    found = settling_depth(residuals, lambda h, ids: 10 * h[..., ids], 3)
    assert found.depth.tolist() == [1, 20, 17, 16, 2]
    assert found.is_deep.tolist() == [False, True, True, False, False]  # 0.85 * 20 = 17
    assert found.ratio == 0.4
    assert found.divergence[0].tolist() == pytest.approx([0.0, 1.0, 1.0, 1.0, 1.0])


def test_known_divergence_and_entropy_in_bits():
    # p = (1, 0), q = (1/2, 1/2): JSD = H(3/4, 1/4) - 1/2.
    residuals = torch.tensor([[[0.0, 0.0]], [[0.0, -math.inf]]]).nan_to_num(neginf=-1e4)
    found = settling_depth(residuals, lambda h, ids: h[..., ids].masked_fill(h[..., ids] < -1e3, -math.inf), 2)
    h = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert found.divergence[:, 0].tolist() == pytest.approx([h - 0.5, 0.0], abs=1e-15)
    assert found.entropy[:, 0].tolist() == pytest.approx([1.0, 0.0], abs=1e-15)


def test_tiny_divergences_keep_their_digits():
    # JSD(p, p + small) = sum small^2 / (8 p ln 2) to first order
    delta = 1e-6
    residuals = torch.tensor([[[0.0, 0.0]], [[math.log1p(delta), math.log1p(-delta)]]], dtype=torch.float64)
    before = residuals.clone()
    found = settling_depth(residuals, lambda h, ids: h[..., ids], 2)
    assert torch.equal(residuals, before)  # logits that are a view of them are not worked on in place
    assert float(found.divergence[0, 0]) == pytest.approx(2 * (delta / 2) ** 2 / (8 * 0.5 * math.log(2)), rel=1e-3)


def test_share_of_blocks_is_not_rounded_up_by_accident():
    # 0.28 * 25 is 7.000000000000001
    residuals = torch.tensor([9.0, -9.0]).expand(25, 1, 2).clone()
    residuals[:6] *= -1
    found = settling_depth(residuals, lambda h, ids: h[..., ids], 2, rho=0.28)
    assert found.depth.tolist() == [7]
    assert found.is_deep.tolist() == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_residuals(dtype):
    residuals, unembed = model(3)
    same = residuals.to(dtype)
    found = settling_depth(same, lambda h, ids: unembed(h.float(), ids), D_VOCAB)
    exact = settling_depth(same.float(), unembed, D_VOCAB)
    torch.testing.assert_close(found.divergence, exact.divergence)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"d_vocab": 1}, "d_vocab >= 2, received 1"),
        ({"g": 1.0}, "g from 0 up to, not including, 1 bit, received 1.0"),
        ({"g": math.nan}, "g from 0 up to.* received nan"),
        ({"rho": 0.0}, "rho above 0, at most 1, received 0.0"),
        ({"chunk": 0}, "chunk >= 1, received 0"),
        ({"max_bytes": 0}, "max_bytes > 0 and finite, received 0"),
    ],
)
def test_bad_options_are_refused(options, text):
    residuals, unembed = model(0)
    with pytest.raises(InputError, match=text):
        settling_depth(residuals, unembed, **{"d_vocab": D_VOCAB, **options})


def test_bad_residuals_and_logits_are_refused():
    residuals, unembed = model(0)
    with pytest.raises(
        InputError, match=r"residuals of shape \[layer, step, d_model\], received shape \(1, 7, 11, 13\)"
    ):
        settling_depth(residuals[None], unembed, D_VOCAB)
    with pytest.raises(InputError, match=r"logits of shape \(7, 11, 103\).* received shape \(7, 11, 101\)"):
        settling_depth(residuals, unembed, D_VOCAB + 2)
    for bad, text in ((math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")):
        with pytest.raises(InputError, match=f"a log normaliser of {text}"):
            settling_depth(residuals, lambda h, ids, bad=bad: torch.full((*h.shape[:2], ids.stop - ids.start), bad), 5)
    residuals[1, 2, 3] = math.nan
    with pytest.raises(InputError, match=r"finite residuals, received 1 NaN .* layer 1, step 2, d_model 3"):
        settling_depth(residuals, unembed, D_VOCAB)
