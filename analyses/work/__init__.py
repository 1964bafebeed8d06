"""Who does the work: batches planned from cells, processes that do them, and the model that a process opens for itself.

What a batch computes is handed in by the rooms above; nothing here knows a measure, a study or a table.
"""
