"""Pytest, looking for doctests, must not import the notebooks, which would run them: ``test_notebooks.py`` does."""

from __future__ import annotations

from analyses.notebooks.build import notebooks

collect_ignore = [str(path) for path in notebooks().values()]
