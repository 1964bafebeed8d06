"""What joins models and probes: problems, run folders, traces, grading, statistics, studies, views, the command line.

Nothing in `interp` or `probes` imports from here, and importing this package imports nothing else.
"""
