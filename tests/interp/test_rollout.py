"""A response on disk: all of it comes back, and what cannot be read or written is one error."""

from __future__ import annotations

from pathlib import Path

import families as F
import pytest
import torch

from interp import InputError, ResidualSites, Rollout, decode


def test_rollout_round_trip_covers_every_field(tmp_path: Path) -> None:
    model = F.bridge("llama")
    record = ResidualSites(sites=("resid_pre", "resid_mid", "resid_post", "ln_final"))
    rollout = decode(model, F.prompts(1), max_new_tokens=5, record=record)[0]
    again = Rollout.load(rollout.save(tmp_path / "a" / "r.safetensors"))
    for name, value in vars(rollout).items():
        loaded = getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, loaded), name
        elif name == "residuals":
            assert set(value) == set(loaded)
            assert all(torch.equal(value[site], loaded[site]) for site in value)
        else:
            assert value == loaded, name
    pre, post = again.residuals["resid_pre"], again.residuals["resid_post"]
    assert pre[1].data_ptr() == post[0].data_ptr(), "stored once, shared again"
    size = (tmp_path / "a" / "r.safetensors").stat().st_size
    assert size < 4 * sum(values.numel() for values in again.residuals.values())


def test_loading_something_else_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not a rollout")
    with pytest.raises(InputError, match=r"load a rollout: expected a file written by Rollout\.save"):
        Rollout.load(tmp_path / "x.safetensors")


def test_a_rollout_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    rollout = decode(F.bridge("llama"), [[5, 6]], max_new_tokens=2)[0]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"save a rollout: expected a place to write at .*, received \w+Error"):
        rollout.save(tmp_path / "file" / "r.safetensors")
