"""Timings and counts that a reader can repeat: ``python -m analyses.bench``, and one module for each thing measured.

What is measured lives in the other rooms and knows nothing of this one. Nothing that a run, a study or a page needs
lives here, and no test is passed or failed by a timing.
"""
