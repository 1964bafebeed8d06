"""The slow imports of every timed process, made once in the process that all of them are forked from."""

import transformers  # noqa: F401

import analyses.bench.variants
import analyses.trace.step_scores  # noqa: F401
import interp.decoding
import interp.interventions
import interp.reading  # noqa: F401
from interp.loading.hugging_face import import_transformer_lens

import_transformer_lens()
