"""Where the scores of streams are worked out: on the device that the streams are on, or on the host beside it.

nHSIC is float64 inside. A data-centre GPU does float64 at half the speed of float32 or not much less, most others at a
thirty-second or a sixty-fourth, and then the host is quicker. Which it is here is measured once, on streams made up.
On the host, scores are worked out by another thread while the device goes on with the next steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

__all__ = ["Aside", "scoring_device"]

HOST = torch.device("cpu")
Score = Callable[[Tensor, Tensor], Tensor]
_TRIED = (4, 8)  # layers and steps that are scored to see how long it takes
_WAITING = 4  # calls that may wait for their turn: what they hold is memory


def scoring_device(device: torch.device, score: Score, d_model: int, dtype: torch.dtype) -> torch.device:
    """Where ``score`` takes less time for streams that are on ``device``: there, or on the host, copies included.

    The rule: streams of the host are scored there, and so are those of a device that has no float64; on a CUDA device
    both are tried, twice each, and the quicker second try has it.

    >>> scoring_device(torch.device("cpu"), lambda steps, answer: steps[..., 0], 8, torch.float32)
    device(type='cpu')
    """
    if device.type != "cuda":
        return HOST
    dice = torch.Generator().manual_seed(0)
    steps = torch.randn(*_TRIED, d_model, generator=dice).mul(30).to(device, dtype)
    tries = {
        device: lambda: score(steps, steps[:, 0]).cpu(),
        HOST: lambda: score(here := steps.cpu(), here[:, 0]),
    }
    return min(tries, key=lambda place: _second_try(tries[place]))


def _second_try(act: Callable[[], Any]) -> float:
    """Seconds of what ends on the host; the first try also pays for what is set up once."""
    act()
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


class Aside:
    """Calls made in their order: by a thread beside this one, or at once.

    >>> found = []
    >>> aside = Aside(True)
    >>> for number in range(3):
    ...     aside.call(found.append, number)
    >>> aside.settle()
    >>> found
    [0, 1, 2]

    What a call raises is raised by a later one, or by ``settle``.
    """

    def __init__(self, is_beside: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "scores") if is_beside else None
        self._calls: deque[Future[None]] = deque()

    def call(self, act: Callable[..., None], *args: Any) -> None:
        if self._thread is None:
            act(*args)
            return
        while self._calls and (self._calls[0].done() or len(self._calls) >= _WAITING):
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(_without_gradients, act, *args))

    def settle(self) -> None:
        """Wait for all calls."""
        while self._calls:
            self._calls.popleft().result()


def _without_gradients(act: Callable[..., None], *args: Any) -> None:
    with torch.no_grad():  # which is each thread's own matter
        act(*args)
