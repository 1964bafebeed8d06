"""What each component wrote into the residual stream, and what the logits read from it.

What shares mean, and tables of them, are for :mod:`analyses.attribution`.
"""

from interp.writes.components import Component, Writes
from interp.writes.patterns import read_patterns
from interp.writes.reading import read_writes
from interp.writes.readout import Readout, readout_of
from interp.writes.replacing import replaced_streams
from interp.writes.shares import LogitShares, logit_shares
from interp.writes.sources import Sources, read_sources

__all__ = [
    "Component",
    "LogitShares",
    "Readout",
    "Sources",
    "Writes",
    "logit_shares",
    "read_patterns",
    "read_sources",
    "read_writes",
    "readout_of",
    "replaced_streams",
]
