"""What every test shares: one thread per process is enough for tiny models, and nothing reaches for a model hub."""

from __future__ import annotations

import os

import torch

torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
