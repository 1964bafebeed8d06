"""Responses that exist: found in the files that others write, paired with problems, turned into tokens.

1. `load_responses` reads a file, a folder or several (:mod:`analyses.responses.files`), whatever their format: one file
   of this room each. What cannot be read is told with its place, and the rest is taken.
2. `pair` finds the problem that each answers (:mod:`analyses.responses.pairing`).
3. `given_response` makes tokens of prompt and response, as the model has written them
   (:mod:`analyses.responses.written`).
4. `export_prompts` and `export_responses` write what others read, and what is read here again
   (:mod:`analyses.responses.export`).

Nothing here runs a model. ``trace(responses=...)`` reads what was found (:mod:`analyses.trace.given`).
"""

from analyses.responses.export import export_prompts, export_responses
from analyses.responses.files import Responses, load_responses
from analyses.responses.pairing import Paired, pair
from analyses.responses.stored import Stored
from analyses.responses.written import Given, first_difference, given_response

__all__ = [
    "Given",
    "Paired",
    "Responses",
    "Stored",
    "export_prompts",
    "export_responses",
    "first_difference",
    "given_response",
    "load_responses",
    "pair",
]
