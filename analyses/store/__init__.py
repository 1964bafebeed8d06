"""The folder of a run on disk: one file per cell, whole or not at all, and the tables beside them.

It knows neither models nor what a table means: who writes a table, and what its columns say, is in the rooms above.
"""

from analyses.store.run import Cell, CellData, Run

__all__ = ["Cell", "CellData", "Run"]
