"""Which GPU each of several worker processes of one machine has for itself."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["visible_gpus"]


def visible_gpus(device: str, environ: Mapping[str, str] = os.environ, count: int | None = None) -> tuple[str, ...]:
    """What ``CUDA_VISIBLE_DEVICES`` says in each worker in turn; nothing where there is nothing to share out.

    >>> visible_gpus("cuda:0", {}, 3), visible_gpus("cuda:0", {"CUDA_VISIBLE_DEVICES": "4,6"}, 2)
    (('0', '1', '2'), ('4', '6'))
    >>> visible_gpus("cpu", {}, 3), visible_gpus("cuda:0", {}, 1)
    ((), ())

    Args:
        device: that the model is on here. One other than the first GPU was chosen by name, and all workers use it.
        environ: of this process; the GPUs that it is limited to are shared out, numbers and identifiers alike.
        count: GPUs that this process sees; torch is asked unless given.
    """
    if device not in ("cuda", "cuda:0"):
        return ()
    if count is None:
        import torch

        count = torch.cuda.device_count()
    chosen = environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(count)] if chosen is None else [part.strip() for part in chosen.split(",")]
    return tuple(names[:count]) if count > 1 else ()
