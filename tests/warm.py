"""Does what is slow before a toy can be traced, once: a process forked from one that imported this need not.

Without the type checks that tests run under, and with one thread, as a fork needs it.
"""

import importlib

import torch

from interp import load_model

NAMES = (
    "analyses.trace.tracing", "analyses.studies.run",
    # Of what notebooks show
    "analyses.attribution.circuit", "analyses.views.figures", "bokeh.embed", "bokeh.plotting",
)  # fmt: skip
for name in NAMES:
    importlib.import_module(name)
torch.set_num_threads(1)
load_model("toy-reasoner", device="cpu")
