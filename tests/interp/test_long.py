"""Memory of reading long texts: the largest of a process that does it, as the kernel counted it."""

from __future__ import annotations

import json

from processes import Forks

from interp.pieces import CPU_BYTES

READS = """
import ctypes, json, resource, sys
import torch, transformers
from interp import ResidualPieces, load_model, read
from probes import nhsic

# What is freed goes back to the kernel (M_MMAP_THRESHOLD): how much glibc keeps of pieces of growing sizes is chance.
assert ctypes.CDLL(None).mallopt(-3, 1 << 19) == 1
heads, text, layers, width = map(int, sys.argv[1:])
config = transformers.LlamaConfig(
    vocab_size=300, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=heads,
    num_key_value_heads=1, max_position_embeddings=text, eos_token_id=1, bos_token_id=2, pad_token_id=0,
)
torch.manual_seed(0)
network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
network.config.architectures = ["LlamaForCausalLM"]
model = load_model("long", hf_model=network, device="cpu")
ids = torch.randint(3, 300, (text,)).tolist()
answer = torch.randn(layers, width)
mebibytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def peak(length, piece):
    scores = []
    record = ResidualPieces(on_piece=lambda some: scores.append(nhsic(some.residuals["resid_post"], answer)))
    read(model, ids[:9], ids[9:length], record=record, piece=piece)
    assert torch.cat(scores, 1).shape == (layers, length - 9)
    return mebibytes()

peak(300, 128)
before = mebibytes()
print(json.dumps([peak(1500, 128) - before, peak(text, 128) - before, peak(text, None) - before]))
"""


def test_the_memory_of_reading_grows_with_the_cache_alone(toy_forks: Forks) -> None:
    """One attention pattern of the whole text would be 576 MB, and eager attention holds three of them."""
    heads, text, layers, width = 4, 6000, 2, 32
    code, said = toy_forks.wait(toy_forks.spawn(READS, heads, text, layers, width))
    assert code == 0, said
    short, long, unasked = json.loads(said.splitlines()[-1])
    a_piece_s_scores = heads * 128 * (text - 1500) * 4 / 2**20
    cache = 2 * layers * (text - 1500) * (width // heads) * 4 / 2**20
    # Grown, converted and summed, a piece's scores are there some times over; nothing else of 4 bytes is.
    assert long - short < cache + 4 * a_piece_s_scores + 16, (short, long)
    assert unasked < 6 * CPU_BYTES / 2**20, unasked
