"""Notebooks that teach by doing, kept as text (jupytext ``py:percent``) and built by ``python -m analyses.notebooks``.

Each is a row of questions: a few lines of code, a picture, what to conclude. Open one with Jupyter and jupytext, or
build all of them into executed ``.ipynb`` files and pages that need no network. See :mod:`analyses.notebooks.build`.
Nothing else imports from here, and no notebook holds code that another room could use.
"""
