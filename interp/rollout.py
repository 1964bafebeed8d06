"""A response and everything recorded while it was decoded.

One file holds one rollout: tensors as safetensors, the rest as JSON in the file's metadata. Residual streams that share
memory (``resid_pre[l+1]`` is ``resid_post[l]``) are stored once and share memory again after loading.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.display import Fragment, details_table, number, places, token_spans, visible
from interp.errors import InputError
from interp.foreign import foreign_errors, said
from interp.rows import Event
from interp.token_text import gap_between, inputs_of

if TYPE_CHECKING:
    import pandas

__all__ = ["Rollout"]

FORMAT = "peaklens rollout 1"
_SHOWN = 400  # tokens that a notebook shows unasked
_PROMPT_END = 16  # tokens of a prompt that are told of
_WIDE = 96  # characters of a text in a line


@dataclass(repr=False)
class Rollout:
    """What ``decode`` returns for one prompt, and ``read`` for a response that is there already.

    >>> import torch
    >>> ids = torch.tensor([5, 6])
    >>> Rollout(ids, ids, ["a", "b"], "ab", "eos", torch.zeros(2), torch.zeros(2), {"resid_post": torch.zeros(3, 2, 8)})
    Rollout: 2 steps after a prompt of 2 tokens, ended by eos
      prompt    5 6
      text      ab
      recorded  resid_post [3, 2, 8]

    Attributes:
        prompt_ids: ``[pos]``, as fed to the model.
        token_ids: ``[step]``, the response, its stopping token included.
        tokens: what each response token adds to the text (its space too, where the vocabulary has it in the token);
            a character of several tokens stands at the last of them, and those before are empty.
        text: the response as text, special tokens left out.
        finish_reason: "eos", "stop" (a stop string or id), "length", or what an intervention ended it with; "given" of
            a response that was read.
        logprobs: ``[step]``, nats: log-probability of each emitted token under the distribution it was chosen from, at
            temperature 1: after the model's generation_config and interventions, before any nucleus cut.
        entropy: ``[step]``, nats, of the same distribution.
        residuals: site to ``[layer, step, d_model]``, sites of heads (z, q, k, v) to ``[layer, step, head, d_head]``;
            step t is the position that predicts response token t.
        layers: the layers of ``residuals`` (``ln_final`` has one of its own).
        events: where interventions acted (``is_act``), and which never did.
        settings: model, seed, temperature, versions, interventions...
        prompt_token: what the prompt's last token writes, which step 0 has read; None in files of earlier versions.
    """

    prompt_ids: Int[Tensor, " pos"]
    token_ids: Int[Tensor, " step"]
    tokens: list[str]
    text: str
    finish_reason: str
    logprobs: Float[Tensor, " step"]
    entropy: Float[Tensor, " step"]
    residuals: dict[str, Float[Tensor, "_ step ..."]] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    events: list[Event] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    prompt_token: str | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def input_ids(self) -> Int[Tensor, " step"]:
        """``[step]``: the token that each step has read, of which its residual stream is; token t is what it predicts.

        >>> ids = torch.tensor([5, 6])
        >>> rollout = Rollout(torch.tensor([1, 4]), ids, ["a", "b"], "ab", "eos", torch.zeros(2), torch.zeros(2))
        >>> rollout.input_ids.tolist(), rollout.input_tokens
        ([4, 5], ['⟨prompt⟩', 'a'])
        """
        return torch.cat([self.prompt_ids[-1:], self.token_ids])[: len(self)]

    @property
    def input_tokens(self) -> list[str]:
        """What those tokens write (`interp.token_text.inputs_of`)."""
        return inputs_of(self.tokens, self.prompt_token)

    def show(
        self, by: str | Tensor | Sequence[float | int] = "logprobs", marks: Tensor | Iterable[int] | None = None
    ) -> Fragment:
        """The response as text coloured by a number a token; all of it.

        >>> import torch
        >>> ids = torch.tensor([1, 2])
        >>> Rollout(ids, ids, ["a", "b"], "ab", "eos", torch.tensor([-0.5, -2.0]), torch.zeros(2)).show()
        2 tokens by log-probability (nats), from -2 to -0.5

        Args:
            by: "logprobs" (dark is improbable), "entropy", or a number a token in any unit.
            marks: steps to mark, as numbers or truth values; where interventions acted unless given.

        Raises:
            InputError: another name, or as many numbers as there are not tokens.
        """
        named = {"logprobs": "log-probability (nats)", "entropy": "entropy (nats)"}
        if isinstance(by, str) and by not in named:
            raise InputError(
                "Rollout.show",
                expected='"logprobs", "entropy" or one number a token',
                received=repr(by),
                remedy="For views with layers, use analyses.views.",
            )
        values: Tensor | Sequence[float | int] = getattr(self, by) if isinstance(by, str) else by
        label = named[by] if isinstance(by, str) else "value"
        plain = [float(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]
        finite = [v for v in plain if abs(v) < float("inf")]
        low, high = (min(finite), max(finite)) if finite else (None, None)
        ends = "no finite values" if low is None or high is None else f"from {number(low)} to {number(high)}"
        if by == "logprobs":
            low, high = high, low
        noted = self._notes()
        body = token_spans(
            self.tokens,
            plain,
            marks=[step for step, note in enumerate(noted) if note] if marks is None else marks,
            titles=self._titles(noted),
            label=label,
            low=low,
            high=high,
            marked="intervention" if marks is None else "marked",
            gap=gap_between(self.tokens, self.text),
        )
        return Fragment(body, f"{len(self)} tokens by {label}, {ends}")

    def to_frame(self) -> pandas.DataFrame:
        """One row a step: the token it has read and the one it predicts, log-probability and entropy (nats), events.

        Columns: step, input_token_id, input_token, token_id, token, logprob, entropy, event (notes of interventions,
        or "").
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "step": range(len(self)),
                "input_token_id": self.input_ids.tolist(),
                "input_token": self.input_tokens,
                "token_id": self.token_ids.tolist(),
                "token": self.tokens,
                "logprob": self.logprobs.double().tolist(),
                "entropy": self.entropy.double().tolist(),
                "event": self._notes(),
            }
        )

    def _titles(self, notes: Sequence[str]) -> list[str]:
        """Each step by the tokens around it, and what was noted there."""
        around = places(self.input_tokens, self.tokens)
        return [f"{place}; {note}" if note else place for place, note in zip(around, notes, strict=True)]

    def _notes(self) -> list[str]:
        """What interventions did at each step, or nothing."""
        notes: list[list[str]] = [[] for _ in range(len(self))]
        for event in self.events:
            if 0 <= event.step < len(notes):
                notes[event.step].append(f"{event.intervention}: {event.note}")
        return ["; ".join(at) for at in notes]

    def __repr__(self) -> str:
        """At most four lines: how long and why it ended, the prompt's end, the text, what is recorded."""
        model, events = self.settings.get("model"), len(self.events)
        acted = f", {events} event{'s' * (events != 1)}" if events else ""
        steps, prompt = len(self), len(self.prompt_ids)
        ids = " ".join(map(str, self.prompt_ids[-_PROMPT_END:].tolist()))
        end = str(self.settings.get("prompt_end") or ids)
        shapes = [f"{site} {list(values.shape)}" for site, values in self.residuals.items()]
        return "\n".join(
            [
                f"Rollout{f' of {visible(str(model))}' if model else ''}: {steps} step{'s' * (steps != 1)} after a "
                f"prompt of {prompt} token{'s' * (prompt != 1)}, ended by {visible(self.finish_reason)}{acted}",
                f"  prompt    {_line(end, prompt > _PROMPT_END, from_end=True)}",
                f"  text      {_line(self.text)}",
                f"  recorded  {', '.join(shapes) or 'no residual streams'}",
            ]
        )

    def _repr_html_(self) -> str:
        noted = self._notes()
        facts = {
            "model": self.settings.get("model", "not named"),
            "length": f"{len(self)} tokens after a prompt of {len(self.prompt_ids)}",
            "finish reason": self.finish_reason,
            "events": sum(event.is_act for event in self.events),
            **{event.intervention: event.note for event in self.events if not event.is_act},
        }
        text = token_spans(
            self.tokens,
            marks=[step for step, note in enumerate(noted) if note],
            titles=self._titles(noted),
            label="response",
            marked="intervention",
            limit=_SHOWN,
            gap=gap_between(self.tokens, self.text),
        )
        return details_table(facts) + text

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one ``.safetensors`` file, whole or not at all.

        >>> import tempfile, torch
        >>> ids = torch.tensor([1, 2])
        >>> rollout = Rollout(ids, ids, ["a", "b"], "ab", "eos", torch.zeros(2), torch.zeros(2))
        >>> Rollout.load(rollout.save(tempfile.mkdtemp() + "/r.safetensors")).text
        'ab'
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).detach().cpu().clone() for name in _TENSORS}
        shared = _shared_block(self.residuals)
        if shared is not None:
            tensors["residuals.stream"] = _alone(shared)
        for site, values in self.residuals.items():
            if shared is None or site not in _STREAM:
                tensors[f"residuals.{site}"] = _alone(values)
        plain = {name: getattr(self, name) for name in _PLAIN}
        body = {**plain, "events": [asdict(event) for event in self.events], "sites": list(self.residuals)}
        target = Path(path)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        # safetensors reports a full disk as its own error
        with foreign_errors(
            "save a rollout",
            expected=f"a place to write at {target}",
            remedy="Free some space, or choose another folder.",
            kinds=(OSError, SafetensorError),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                save_file(tensors, partial, metadata={"format": FORMAT, "rollout": json.dumps(body)})
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Rollout:
        """Read what :meth:`save` wrote; anything else is an ``InputError``."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError) as error:
            raise InputError(
                "load a rollout",
                expected="a file written by Rollout.save",
                received=f"{os.fspath(path)} ({said(error)})",
                remedy="Check the path; a truncated file has to be decoded again.",
            ) from error
        if metadata.get("format") != FORMAT:
            raise InputError(
                "load a rollout",
                expected=f"format {FORMAT!r}",
                received=repr(metadata.get("format")),
                remedy="The file holds something else, or was written by another version.",
            )
        body = json.loads(metadata["rollout"])
        residuals = {}
        for site in body.pop("sites"):
            if f"residuals.{site}" in tensors:
                residuals[site] = tensors[f"residuals.{site}"]
            else:
                stream = tensors["residuals.stream"]
                residuals[site] = stream[:-1] if site == "resid_pre" else stream[1:]
        events = [Event(**event) for event in body.pop("events")]
        layers = tuple(body.pop("layers"))
        return cls(**{n: tensors[n] for n in _TENSORS}, residuals=residuals, layers=layers, events=events, **body)


_TENSORS = ("prompt_ids", "token_ids", "logprobs", "entropy")
_PLAIN = ("tokens", "text", "finish_reason", "layers", "settings", "prompt_token")
_STREAM = ("resid_pre", "resid_post")


def _line(text: str, is_cut: bool = False, from_end: bool = False) -> str:
    """A text on one line of a terminal, what cannot be seen as signs: its beginning, or its end."""
    long = len(text) > _WIDE
    shown = visible(text[-_WIDE:] if from_end else text[:_WIDE])
    dots = "..." if is_cut or long else ""
    return f"{dots}{shown}" if from_end else f"{shown}{dots}"


def _alone(values: Tensor) -> Tensor:
    """On the CPU and in memory of its own, as safetensors wants it; copied only if need be."""
    values = values.detach().cpu().contiguous()
    return values if values.untyped_storage().nbytes() == values.nbytes else values.clone()


def _shared_block(residuals: dict[str, Tensor]) -> Float[Tensor, "boundary step d_model"] | None:
    """The one block of which resid_pre and resid_post are the first and the last ``layer`` entries, if there is one."""
    if not set(_STREAM) <= set(residuals):
        return None
    pre, post = residuals["resid_pre"], residuals["resid_post"]
    same = pre.untyped_storage().data_ptr() == post.untyped_storage().data_ptr() and pre.stride() == post.stride()
    if not same or post.storage_offset() - pre.storage_offset() != pre.stride(0) or pre.shape != post.shape:
        return None
    return pre.as_strided((pre.shape[0] + 1, *pre.shape[1:]), pre.stride(), pre.storage_offset())
