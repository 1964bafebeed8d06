"""nnsight, timed: run by an interpreter of an environment that has it, which lacks this package.

Usage: ``PYTHON -I nnsight_script.py CLOCK FOLDER DTYPE DEVICE THREADS``. CLOCK is the path of `clock.py` beside this
file, FOLDER a Hugging Face model. A line of JSON comes in for each call (``ids``, and ``new_tokens`` to decode, or
without them to read), and one goes out with what was measured; the first that goes out says which versions answer.

As nnsight's own documentation has it, ``tracer.cache`` keeps the outputs of all blocks, the prompt's and every step's.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from typing import Any

import torch


def _blocks(envoy: Any) -> list[Any]:
    """The longest list of modules: the blocks, whatever a family calls them."""
    lists = [one for one in envoy.modules() if isinstance(one._module, torch.nn.ModuleList)]
    longest: Any = max(lists, key=lambda one: len(one._module))
    return list(longest)


def main(clock: str, folder: str, dtype: str, device: str, threads: str) -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(int(threads))
    spec = importlib.util.spec_from_file_location("clock", clock)
    assert spec is not None
    assert spec.loader is not None
    timed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timed)
    nnsight, transformers = importlib.import_module("nnsight"), importlib.import_module("transformers")

    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="sdpa", dtype=getattr(torch, dtype), local_files_only=True
    )
    network.generation_config = transformers.GenerationConfig(do_sample=False, use_cache=True, pad_token_id=0)
    network = network.to(device).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = nnsight.TransformersModel(network, tokenizer=tokenizer, task="text-generation")
    blocks = _blocks(model)

    def inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
        ids = ids.to(network.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def generate(prompts: torch.Tensor, n: int, clock: Any) -> torch.Tensor:
        criteria = transformers.StoppingCriteriaList([clock])
        with model.generate(inputs(prompts), max_new_tokens=n, stopping_criteria=criteria) as tracer:
            cache = tracer.cache(modules=blocks)
            whole = tracer.result.save()
        assert len(cache[blocks[0].path].output) == n
        tokens: torch.Tensor = whole[:, prompts.shape[1] :]
        return tokens

    def read(ids: torch.Tensor) -> Any:
        with model.trace(inputs(ids), use_cache=False, logits_to_keep=1) as tracer:
            cache = tracer.cache(modules=blocks)
        return cache  # noqa: RET504  (what is bound inside comes to be when the block has run)

    with torch.no_grad():
        few = torch.arange(1, 9)[None]
        generate(few, 2, timed.Clock())  # the first calls also pay for memory and libraries
        read(few)
        memory = timed.Memory(torch.device(device))
        versions = {name: importlib.import_module(name).__version__ for name in ("nnsight", "torch", "transformers")}
        print(json.dumps({"versions": versions, "threads": torch.get_num_threads()}), file=out, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            if "new_tokens" in asked:
                found = timed.timed_decode(generate, asked["ids"], asked["new_tokens"], memory)
            else:
                found = timed.timed_read(read, asked["ids"], memory)
            print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
