"""The responses of a trace and nothing else: transformers' own ``generate``, TransformerLens imported beside it.

A process of its own, ``python -m analyses.bench.bare 64 160 16``: how many problems, tokens at most, rows at a time.
As long as peaklens imports both, a trace of the toy reasoner takes no less. It prints the responses' tokens.
"""

from __future__ import annotations

import importlib
import json
import sys

__all__ = ["main"]


def main(count: int, new_tokens: int, rows: int) -> None:
    """Decode greedily and print."""
    importlib.import_module("transformer_lens.model_bridge")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from analyses.problems import bundled_problems
    from interp.loading.models import bundled_model_path

    folder = bundled_model_path("toy-reasoner")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    questions, found = [problem.question for problem in bundled_problems(count)], []
    for begin in range(0, count, rows):
        asked = tokenizer(questions[begin : begin + rows], return_tensors="pt", padding=True)
        ids, mask = asked["input_ids"], asked["attention_mask"]
        made = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens)
        found += made[:, ids.shape[1] :].tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
