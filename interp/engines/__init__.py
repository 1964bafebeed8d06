"""Who computes a step: the model library behind one interface, chosen by `registry.engine_for`, and the cache it keeps.

Decoding, reading, scoring and sweeps go through that door; nothing here knows prompts, sampling or interventions.
"""
