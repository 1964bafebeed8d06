"""The report of a trace, or of several, as one offline page: `report` gives the document, `write_report` a file."""

from __future__ import annotations

from analyses.report.document import refresh_report, report, write_report

__all__ = ["refresh_report", "report", "write_report"]
