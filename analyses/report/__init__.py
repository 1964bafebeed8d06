"""The report of a trace, or of several, as one offline page: `report` gives the document, `write_report` a file.

It reads the tables of finished runs and decodes nothing; figures are in :mod:`analyses.views`.
"""

from __future__ import annotations

from analyses.report.document import refresh_report, report, write_report

__all__ = ["refresh_report", "report", "write_report"]
