"""Large products of the twin against float64, where oneDNN makes them and where it must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.engines import products
from interp.engines.products import LARGE, take_over

REAL = products._processor
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a build of torch without oneDNN")


def layer(bias: bool = True, d_model: int = 64) -> torch.nn.Linear:
    torch.manual_seed(3)
    made = torch.nn.Linear(d_model, LARGE // d_model + 5, bias=bias)
    take_over(made)
    return made


@pytest.fixture(autouse=True)
def amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_processor", lambda: "vendor_id\t: AuthenticAMD")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that oneDNN has been given."""
    shapes: list[tuple[int, ...]] = []
    real: Any = products._product()

    def counted(rows: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(tuple(rows.shape))
        return real(rows, *rest)

    monkeypatch.setattr(products, "_product", lambda: counted)
    return shapes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(1,), (1, 1), (2,), (3, 1), (2, 5), (17, 1)])
def test_a_large_product_is_that_of_float64(lead: tuple[int, ...], bias: bool, made: list[tuple[int, ...]]) -> None:
    head, x = layer(bias), torch.randn(*lead, 64)
    with torch.no_grad():
        got = head(x)
        # A view of a longer tensor, as the last position of many is
        strided = torch.randn(*lead, 128)
        strided[..., :64] = x
        assert torch.equal(head(strided[..., :64]), got)
    assert len(made) == 2
    exact = x.double() @ head.weight.double().T + (head.bias.double() if bias else 0)
    assert got.shape == exact.shape
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=2e-6)


def test_what_oneDNN_is_not_asked_for(made: list[tuple[int, ...]]) -> None:
    head, x = layer(), torch.randn(3, 64)
    assert head(x).requires_grad  # a gradient is wanted
    with torch.no_grad():
        assert head(x[:0]).shape == (0, len(head.weight))
        with torch.autocast("cpu", torch.bfloat16):
            assert head(x).dtype == torch.bfloat16
        head.bfloat16()(x.bfloat16())
        head.double()(x.double())
        small = torch.nn.Linear(64, 64)
        take_over(small)
        small(x)
    assert made == []


@pytest.mark.parametrize("told", ["vendor_id\t: GenuineIntel", "Intel64 Family 6 Model 143, GenuineIntel", "arm", ""])
def test_other_processors_keep_torch_s_product(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_processor", lambda: told)
    assert type(layer()) is torch.nn.Linear


def test_this_processor_is_told() -> None:
    """On Linux by its maker; elsewhere in some words, or not at all."""
    told = REAL()
    assert "\n\n" not in told
    assert not Path("/proc/cpuinfo").exists() or any(maker in told for maker in ("Intel", "AMD", "CPU implementer"))


def test_layers_of_another_kind_stay_as_they_are() -> None:
    class Other(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(Other(2, 3), torch.nn.Linear(3, 4))
    take_over(model)
    assert [type(module).__name__ for module in model] == ["Other", "Product"]
