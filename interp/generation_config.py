"""What a model's ``generation_config`` asks of decoding, honoured by transformers' own code.

``transformers`` itself prepares the settings and builds the logits processors, for each prompt alone and unpadded, as
its ``generate(do_sample=False)`` does for one prompt; nothing of them is written a second time here. So a greedy
response is the one of ``generate``, whatever the model's ``generation_config`` says, in batches too.

1. The processors come before every intervention: interventions, the choice, log-probabilities and entropies see the
   processed distribution. They hold for a position that is run again, too; scratch tokens are chosen without them.
2. ``temperature``, ``top_p`` and lengths are arguments of ``decode`` and are not read here; other settings that only
   shape sampling (``top_k``, ``min_p``, ...) are not honoured, and a sampled run says so once.
3. Settings that would choose other tokens by another way of decoding (beams, guidance, ...) are refused by name.
4. What acts is recorded in ``Rollout.settings["generation_config"]``.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.devices import on_device
from interp.engines.base import ModelFacts, end_ids
from interp.errors import InputError
from interp.foreign import foreign_errors
from interp.rows import Row

__all__ = ["GenerationRules", "RowProcessors", "generation_rules"]

# setting -> values at which it does nothing, beside None
_ACTING: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "sequence_bias": (),
    "bad_words_ids": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "remove_invalid_values": (False,),
    "exponential_decay_length_penalty": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "watermarking_config": (),
    "renormalize_logits": (False,),
    "stop_strings": (),
    "eos_token_id": (),
}
# Another way of decoding, hence other tokens.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "constraints": (),
    "force_words_ids": (),
    "dola_layers": (),
    "guidance_scale": (1,),
    "token_healing": (False,),
    "num_return_sequences": (1,),
}
# The same tokens by another way, or a limit that is no property of the text.
_NOT_DONE: dict[str, tuple[Any, ...]] = {
    "max_time": (),
    "use_mtp": (False,),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
}
# Shapes draws alone; temperature and top_p are arguments here.
_SAMPLING: dict[str, tuple[Any, ...]] = {
    "top_k": (0,),
    "min_p": (0,),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
_ENDLESS = 1 << 30
# Models, and their settings, told as texts, from which transformers makes no processor.
_NONE: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
_OFF = "Change it in the model's generation_config, or pass generation_config=False to decode without all of it."


@dataclass(frozen=True)
class GenerationRules:
    """What of a ``generation_config`` holds in one call of ``decode``; made by :func:`generation_rules`.

    Attributes:
        eos: ids that end a response.
        acting: the settings that act, by name, JSON-able.
        ignored: the names of those that ask for something that is not done.
        stop_strings: those that transformers cannot look for with this tokenizer; the others are found by ``stops``.
    """

    eos: frozenset[int]
    acting: dict[str, Any]
    ignored: tuple[str, ...] = ()
    stop_strings: tuple[str, ...] = ()
    _hf: Any = field(default=None, repr=False)
    _config: Any = field(default=None, repr=False)
    _stop: Any = field(default=None, repr=False)

    def told(self) -> dict[str, Any]:
        """What acts, and what is left undone, for the settings of a rollout."""
        ignored = {"generation_config_ignored": list(self.ignored)} if self.ignored else {}
        return {"generation_config": self.acting, **ignored}

    def stops(self, row: Row, token: int) -> bool:
        """Whether the row's text ends, with this token, on a stop string of the config, as transformers sees it.

        The prompt is part of the text: a stop string may begin in it.
        """
        if self._stop is None:
            return False
        ids = [*row.prompt_ids, *row.token_ids, token][-self._stop.maximum_token_len :]
        return bool(self._stop(torch.tensor([ids]), None)[0])

    def processors(
        self, prompts: Sequence[Sequence[int]], new_tokens: int | None, capacity: int, device: torch.device
    ) -> RowProcessors | None:
        """The processors of these prompts, each its own; ``None`` if the config has none.

        ``new_tokens`` is where ``forced_eos_token_id`` ends a response (nowhere at ``None``); ``capacity`` the most
        tokens that may come.
        """
        if self._config is None or not prompts or self._are_none(prompts[0], new_tokens, device):
            return None
        return RowProcessors(partial(self._build, new_tokens=new_tokens, device=device), prompts, capacity, device)

    def _are_none(self, prompt: Sequence[int], new_tokens: int | None, device: torch.device) -> bool:
        """Whether these settings come to no processor; that hangs on no prompt and no length, and is asked for once."""
        known = _NONE.setdefault(self._hf, set())
        settings = f"{self._config.to_dict()} {new_tokens is None} {device}"
        if settings not in known:
            if self._build(prompt, new_tokens, device):
                return False
            known.add(settings)
        return True

    def _build(self, prompt: Sequence[int], new_tokens: int | None, device: torch.device) -> Any:
        """transformers' list for one prompt, caught where ``generate`` hands it to its own loop."""
        caught: list[Any] = []

        def catch(model: Any, input_ids: Tensor, logits_processor: Any, **_: Any) -> Tensor:
            caught.append(logits_processor)
            return input_ids

        twin = copy.copy(self._hf)  # the same modules and weights; only its generation_config is another
        twin.generation_config = config = copy.deepcopy(self._config)
        config.max_new_tokens = new_tokens or _ENDLESS
        if new_tokens is None:
            config.forced_eos_token_id = None
        ids = torch.tensor([list(prompt)], device=device)
        with _config_errors("be settings transformers accepts"), _quiet():
            twin.generate(ids, attention_mask=torch.ones_like(ids), custom_generate=catch)
        return caught[0]


class RowProcessors:
    """Logits processors of the rows of a batch: each row's see its own ids alone, without padding.

    Args:
        build: the processors of a prompt.
        prompts: of the first rows, the longest there will be among them.
    """

    def __init__(
        self,
        build: Callable[[Sequence[int]], Any],
        prompts: Sequence[Sequence[int]],
        capacity: int,
        device: torch.device,
    ) -> None:
        self._build, count = build, len(prompts)
        self._ids = torch.zeros(count, max(map(len, prompts)) + capacity, dtype=torch.long, device=device)
        self._lengths = [0] * count
        self._lists: list[Any] = [None] * count
        # A SynthID watermark counts its calls: a position that is run again must not count twice.
        self._stateful: list[list[Any]] = [[] for _ in prompts]
        self._before: dict[int, tuple[int, list[Any]]] = {}
        self.begin(range(count), prompts)

    def begin(self, slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> None:
        """These prompts take the places ``slots``, whatever was there."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self._ids[slot, : len(prompt)] = on_device(list(prompt), self._ids.device)
            self._lengths[slot] = len(prompt)
            self._lists[slot] = self._build(prompt)
            self._stateful[slot] = [p for p in self._lists[slot] if hasattr(p, "state")]
            self._before.pop(slot, None)

    def append(self, slots: Sequence[int], ids: Int[Tensor, "row 1"]) -> None:
        """Note the tokens that rows ``slots`` emitted; nothing waits for the device."""
        for slot, token in zip(slots, ids[:, 0], strict=True):
            self._ids[slot, self._lengths[slot]] = token
            self._lengths[slot] += 1

    def __call__(self, logits: Float[Tensor, "some d_vocab"], slots: Sequence[int]) -> Float[Tensor, "some d_vocab"]:
        """The processed scores of rows ``slots``, in the float32 that transformers makes of every model's logits."""
        wide = logits.to(torch.float32, copy=True)
        with _config_errors("fit the model"):
            return torch.cat([self._row(slot, wide[k : k + 1]) for k, slot in enumerate(slots)])

    def _row(self, slot: int, scores: Float[Tensor, "1 d_vocab"]) -> Float[Tensor, "1 d_vocab"]:
        stateful = self._stateful[slot]
        if stateful:
            length, states = self._before.get(slot, (-1, []))
            if length == self._lengths[slot]:
                for processor, state in zip(stateful, states, strict=True):
                    processor.state = copy.deepcopy(state)
            else:
                self._before[slot] = self._lengths[slot], [copy.deepcopy(processor.state) for processor in stateful]
        return self._lists[slot](self._ids[slot : slot + 1, : self._lengths[slot]], scores)

    def edit_of(self, slots: Sequence[int]) -> Any:
        """As an edit of a step's logits, where ``slots`` are the places here of the step's rows."""
        return lambda logits, indices: self(logits, [slots[i] for i in indices])


def generation_rules(
    facts: ModelFacts,
    choice: bool | Mapping[str, Any] | Any = True,
    *,
    sampling: bool = False,
    top_p: float = 1.0,
    operation: str = "decode",
) -> GenerationRules:
    """What holds for a model: its own ``generation_config``, none of it, or changes to it.

    >>> from interp import load_model
    >>> from interp.engines.registry import model_facts
    >>> generation_rules(model_facts(load_model("toy-reasoner")), {"repetition_penalty": 1.2}).acting
    {'repetition_penalty': 1.2, 'eos_token_id': 2}

    Args:
        choice: ``True``, the model's own; ``False``, nothing of it but the ids that end a response; a mapping whose
            entries take the place of the model's; or a ``GenerationConfig``, whose entries do that are not ``None``.
        sampling: whether tokens are drawn, with ``top_p``: then settings that shape draws and do not act are told.

    Raises:
        InputError: a setting that asks for another way of decoding, one that transformers refuses, stop strings without
            a tokenizer.
    """
    hf = facts.generator
    if hf is None:
        return GenerationRules(facts.eos, {})
    config = copy.deepcopy(hf.generation_config)
    if choice is False or choice is None:
        return GenerationRules(facts.eos, _values(config, {"eos_token_id": ()}))
    if choice is not True:
        _replace(config, choice, operation)
    _refuse(config, operation)
    acting = _values(config, _ACTING)
    stop, strings = _stop_criterion(config, facts.tokenizer, operation)
    ignored = _tell_ignored(config, sampling, top_p)
    # Left to decode, or of no bearing on which token is chosen.
    for name in (*_NOT_DONE, "stop_strings", "cache_implementation", "max_length", "compile_config", "cache_config"):
        if hasattr(config, name):
            setattr(config, name, None)
    config.do_sample = False
    return GenerationRules(end_ids(config.eos_token_id), acting, ignored, strings, hf, config, stop)


def _replace(config: Any, choice: Any, operation: str) -> None:
    if not isinstance(choice, Mapping) and not hasattr(choice, "to_diff_dict"):
        raise InputError(
            operation,
            expected="generation_config of True, False, a mapping or a GenerationConfig",
            received=type(choice).__name__,
            remedy="Leave it out for the model's own.",
        )
    changes = dict(choice) if isinstance(choice, Mapping) else dict(vars(choice))
    unknown = [] if not isinstance(choice, Mapping) else [name for name in changes if not hasattr(config, name)]
    if unknown:
        raise InputError(
            operation,
            expected="settings of transformers' GenerationConfig",
            received=", ".join(map(repr, unknown)),
            remedy="Check the spelling.",
        )
    for name, value in changes.items():
        # A GenerationConfig holds None for all that it does not say, as in generate(generation_config=...).
        if isinstance(choice, Mapping) or (value is not None and not name.startswith("_")):
            setattr(config, name, value)


def _set(config: Any, names: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    found = {name: getattr(config, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None and value not in names[name]}


def _values(config: Any, names: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Settings that act, as plain data."""
    acting = _set(config, names)
    return {name: json.loads(json.dumps(_plain(value))) for name, value in acting.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    if isinstance(value, Tensor):
        return value.tolist()
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _refuse(config: Any, operation: str) -> None:
    refused = _set(config, _REFUSED)
    if (config.top_k is None or config.top_k > 1) and (getattr(config, "penalty_alpha", None) or 0) > 0:
        refused["penalty_alpha"] = config.penalty_alpha
    if getattr(config, "cache_implementation", None) == "quantized":
        refused["cache_implementation"] = "quantized"
    if refused:
        raise InputError(
            operation,
            expected="a generation_config of plain decoding, greedy or sampled",
            received=", ".join(f"{name}={value!r}"[:80] for name, value in refused.items()),
            remedy=f"That is another way of decoding, which chooses other tokens. {_OFF}",
        )


def _tell_ignored(config: Any, sampling: bool, top_p: float) -> tuple[str, ...]:
    ignored = _set(config, _NOT_DONE)
    if sampling:
        ignored |= _set(config, _SAMPLING)
        if config.top_p is not None and config.top_p != top_p:
            ignored["top_p"] = config.top_p
    if ignored:
        listed = ", ".join(f"{name}={value!r}"[:60] for name, value in ignored.items())
        warnings.warn(
            f"the model's generation_config asks for {listed}, which decode does not take from it: temperature and "
            "top_p are arguments, and nothing else narrows what is drawn",
            stacklevel=4,
        )
    return tuple(ignored)


def _stop_criterion(config: Any, tokenizer: Any, operation: str) -> tuple[Any, tuple[str, ...]]:
    """transformers' own search for stop strings; or the strings, for a tokenizer it cannot take apart."""
    strings = config.stop_strings
    if strings is None:
        return None, ()
    strings = (strings,) if isinstance(strings, str) else tuple(strings)
    if tokenizer is None or not all(isinstance(string, str) and string for string in strings):
        raise InputError(
            operation,
            expected="a tokenizer to find the generation_config's stop_strings, none of them empty",
            received=f"stop_strings={config.stop_strings!r}"[:120] + ("" if tokenizer else " and no tokenizer"),
            remedy=f"Load one. {_OFF}",
        )
    from transformers.generation.stopping_criteria import StopStringCriteria

    try:
        return StopStringCriteria(tokenizer, list(strings)), ()
    # It looks for a marker text of its own in what the tokenizer writes, and some tokenizers cannot write that.
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError):
        return None, strings


@contextmanager
def _config_errors(must: str) -> Iterator[None]:
    with foreign_errors(
        "decode by the model's generation_config",
        expected=f"it to {must}",
        remedy=_OFF,
        kinds=(ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError),
    ):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers would remark on lengths that both an argument and the config give; the argument is meant to win."""
    from transformers.utils import logging

    logger = logging.get_logger("transformers.generation")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
