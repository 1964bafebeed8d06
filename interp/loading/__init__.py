"""From a name to a model with hook points: where it is, whether it can be served, what was loaded and which one it is.

Nothing here runs a model. Importing this package imports no model library.
"""
