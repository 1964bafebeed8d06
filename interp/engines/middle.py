"""The middle of a block, which is no module's output: it is written where the block adds attention to its stream.

``hook_resid_mid`` itself feeds the MLP branch alone, so editing there would leave the stream as it was; and shifting
what attention adds would round twice, which beside massive coordinates leaves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.engines.base import Edit
from interp.errors import InputError

__all__ = ["Meeting", "Summand", "held", "stream_in"]


def stream_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream among a block's arguments."""
    stream = args[0] if args and isinstance(args[0], Tensor) else kwargs["hidden_states"]
    assert isinstance(stream, Tensor)
    return stream


@dataclass(eq=False)
class Meeting:
    """Where a block adds what attention gives to the stream it was given."""

    edit: Edit
    stream: Tensor | None = None
    met: bool = False


class Summand(Tensor):
    """What attention gives, on its way to the sum with the stream; the sum is then what the edit makes of it.

    A tensor like any other in all that a family does to it before (norms, scales, moves between devices).
    """

    meeting: Meeting

    @classmethod
    def of(cls, values: Tensor, meeting: Meeting) -> Summand:
        marked = values.as_subclass(cls)
        marked.meeting = meeting
        return marked

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        marked = next((value for value in args if isinstance(value, Summand)), None)
        if marked is None or not isinstance(result, Tensor):
            return result
        meeting = marked.meeting
        adds = getattr(func, "__name__", "").strip("_") in ("add", "radd", "iadd")
        if adds and any(value is meeting.stream for value in args):
            meeting.met = True
            result = result.as_subclass(Tensor)
            new = meeting.edit(result)
            return result if new is None else new
        return cls.of(result, meeting) if result.shape == marked.shape else result


def held(block: torch.nn.Module, meeting: Meeting, told: str) -> list[torch.utils.hooks.RemovableHandle]:
    """Hooks that hold what a block is given, and refuse one whose pass did not come to the sum (``told`` names it)."""

    def hold(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        meeting.stream, meeting.met = stream_in(args, kwargs), False

    def check(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
        if not meeting.met:
            raise InputError(
                "write resid_mid",
                expected="a block that adds what attention gives to the stream",
                received=f"{told}, which does not, or a hook that replaces it",
                remedy="Use resid_pre and resid_post.",
            )

    return [block.register_forward_pre_hook(hold, with_kwargs=True), block.register_forward_hook(check)]
