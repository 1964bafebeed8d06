"""What every test shares: one thread per process is enough for tiny models, and nothing reaches for a model hub."""

from __future__ import annotations

import os

import pytest
import torch

# Its asserts then say what they compared, as those of test files do.
pytest.register_assert_rewrite("browser")
torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
