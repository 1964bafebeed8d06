"""Does what is slow before a toy can be traced, once: a process forked from one that imported this need not.

Without the type checks that tests run under, and with one thread, as a fork needs it.
"""

import torch

import analyses.studies.run
import analyses.trace.tracing  # noqa: F401
from interp import load_model

torch.set_num_threads(1)
load_model("toy-reasoner", device="cpu")
