"""What each component wrote into the residual stream, and what the logits read from it.

What shares mean, and tables of them, are for :mod:`analyses.attribution`.
"""

from interp.writes.components import Component, Writes
from interp.writes.reading import read_writes
from interp.writes.readout import Readout, readout_of
from interp.writes.shares import LogitShares, logit_shares

__all__ = ["Component", "LogitShares", "Readout", "Writes", "logit_shares", "read_writes", "readout_of"]
