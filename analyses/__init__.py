"""What is asked of a model and its residual streams: problems, the run store, traces, tables, the command line.

Importing this package imports nothing else; take what you need from its modules.
"""
