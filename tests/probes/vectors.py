"""Vectors like those of residual streams, and the median distance written out over all pairs."""

import numpy as np
import torch


def vectors(*shape: int, seed: int, scale: float = 10.0) -> torch.Tensor:
    """Of any shape, the first coordinate massive."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    x[..., 0] += 600.0  # massive, as in residual streams
    return x


def literal(x: torch.Tensor) -> float:
    first, second = np.triu_indices(len(x), 1)
    v = x.double().numpy()
    return float(np.median(np.abs(v[first] - v[second])))


def correlated(n: int, d: int, *, seed: int, scale: float = 10.0, massive: int = 0) -> torch.Tensor:
    """Correlated vectors of one scale, with coordinates of several hundreds on top."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(d, generator=generator, dtype=torch.float64) + torch.randn(
        n, d, generator=generator, dtype=torch.float64
    )
    x *= scale
    x[:, :massive] += torch.linspace(600, -900, massive, dtype=torch.float64)
    return x
