"""Does what is slow before a toy can be traced, once: a process forked from one that imported this need not.

Without the type checks that tests run under, and with one thread, as a fork needs it.
"""

import importlib

import torch

from interp import load_model
from probes import null_scores

NAMES = (
    "analyses.trace.tracing", "analyses.studies.run",
    # Of what notebooks show
    "analyses.attribution.circuit", "analyses.views.figures", "bokeh.embed", "bokeh.plotting",
)  # fmt: skip
for name in NAMES:
    importlib.import_module(name)
torch.set_num_threads(1)
load_model("toy-reasoner", device="cpu")
x = torch.arange(640.0).sin().reshape(5, 128) * 30
nulls = null_scores(x, x)  # compiled code, from the disk
