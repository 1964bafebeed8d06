"""Timings a reader can repeat."""
