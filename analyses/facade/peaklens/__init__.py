"""Everything of peaklens under one name: ``import peaklens as pl``, then ``pl.`` and a tab.

This package holds nothing of its own: each name is that of `interp` (models and hooks), `probes` (measures on tensors)
or `analyses` (runs, studies, views), which stay importable; what lives there is documented there. Importing it imports
no model library: a name brings its library when it is first used.

>>> import torch, peaklens as pl
>>> mi = pl.nhsic(torch.randn(3, 20, 64), torch.randn(3, 64))
>>> pl.tukey_peaks(mi).shape
torch.Size([3, 20])

Models
    load_model, list_models, pull_model, bundled_model_path
    engine_told, only_engine (whether Hugging Face's forward or TransformerLens's modules compute)

Text through a model
    decode (generate, with interventions and recording), read (a response that is there already), encode (texts on
    their own), score (how likely a response, an answer, or what a metric says)
    ResidualSites, ResidualStream, StepResiduals, ResidualPieces, PieceResiduals (what to record); Rollout, Encoding,
    Scores (what comes back)
    read_writes (what each component wrote into the residual stream); Writes, Component

Interventions
    interventions (the ready-made ones: SuppressTokens, RecycleRepresentation, PatchResidual, ...)
    Intervention, Step, Row, Positions, Site (to write one's own)
    logit_attribution (each component's share in a logit), matched_contrasts (words to compare a thinking word with)
    mi_attribution (its share in a score of a step with the answer), MiAttribution
    patch_sweep; its metrics answer_log_probability, log_probability, logit_difference, Metric
    Circuit (which nodes and edges; attribution has what measures one), node_measure (what a model does with only them)
    receiver_heads, sentence_receivers, ReceiverHeads (whose attention narrows), ablate_receivers (what they do)
    NodeEffects, EdgeEffects (what they give); nhsic_metric, score_metric, residual_metric (what else they measure),
    patch_nodes, patch_edges (what heads, MLPs and the connections between them do, estimated and verified),
    zero_writes, mean_writes (in place of a corrupted run)

Measures of one response
    nhsic, nhsic_dense, bandwidth_sweep, BandwidthSweep, median_distance, pearson_r2, cosine, cka, kernel_cka,
    linear_cka, SCORES
    tukey_peaks, top_k_peaks, peak_statistics, PeakStatistics, thinking_tokens, ThinkingToken
    excess, Excess, null_test, NullTest, null_scores, random_answers, nulls_needed, holm_over_layers
    settling_depth, Depth
    received_attention, depth_controlled, excess_kurtosis, shuffled_kurtosis (which places attention narrows on)
    nhsic_gradient, kernel_cka_gradient, pearson_r2_gradient, cosine_gradient, GRADIENTS; score_function, ScoreFunction,
    integrated_gradient, IntegratedGradient, Differentiable (how a score changes with the vector)

Measures across problems
    v_information, VInformation, answer_probe, AnswerProbe, gaussian_mi, ksg_mi, discrete_mi,
    entropy_bits, reduce_dimensions, Information, sample_hsic, SampleHsic, error_bounds, ErrorBounds

Runs and studies
    trace, TraceRun, Trajectory; attribute_run (of a finished one); Problem, bundled_problems, load_problems
    load_responses (of other engines, logs and data sets, for trace and run_study), export_responses (of a run)
    run_study, make_study, Study, Condition
    Ray (what each worker has on a cluster: trace(..., on=Ray(gpus_per_worker=2)), or on="ray")
    bundle (a site of runs that opens from disk), merge (runs of equal settings), log_to (a tracker of experiments)

Rooms
    attribution (sweeps, circuits and whether they are right), probes, interventions, views (figures), stats (intervals
    and tests), grading (is an answer right), studies

Whatever is refused is an InputError, which says what was tried, expected and received, and what to do.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import probes
    from analyses import attribution, grading, stats, studies, views
    from analyses.attribution import (
        Circuit,
        EdgeEffects,
        MiAttribution,
        NodeEffects,
        ReceiverHeads,
        ablate_receivers,
        logit_attribution,
        matched_contrasts,
        mean_writes,
        mi_attribution,
        nhsic_metric,
        node_measure,
        patch_edges,
        patch_nodes,
        patch_sweep,
        receiver_heads,
        residual_metric,
        score_metric,
        sentence_receivers,
        zero_writes,
    )
    from analyses.problems import Problem, bundled_problems, load_problems
    from analyses.responses import export_responses, load_responses
    from analyses.sharing import bundle, log_to, merge
    from analyses.studies import make_study
    from analyses.studies.base import Condition, Study
    from analyses.studies.run import run_study
    from analyses.trace import TraceRun, Trajectory, attribute_run, trace
    from analyses.work.on_ray import Ray
    from interp import (
        Component,
        Encoding,
        InputError,
        Intervention,
        Metric,
        PieceResiduals,
        Positions,
        ResidualPieces,
        ResidualSites,
        ResidualStream,
        Rollout,
        Row,
        Scores,
        Site,
        Step,
        StepResiduals,
        Writes,
        answer_log_probability,
        bundled_model_path,
        decode,
        encode,
        engine_told,
        interventions,
        list_models,
        load_model,
        log_probability,
        logit_difference,
        only_engine,
        pull_model,
        read,
        read_writes,
        score,
    )
    from probes import (
        GRADIENTS,
        SCORES,
        AnswerProbe,
        BandwidthSweep,
        Depth,
        Differentiable,
        ErrorBounds,
        Excess,
        Information,
        IntegratedGradient,
        NullTest,
        PeakStatistics,
        SampleHsic,
        ScoreFunction,
        ThinkingToken,
        VInformation,
        answer_probe,
        bandwidth_sweep,
        cka,
        cosine,
        cosine_gradient,
        depth_controlled,
        discrete_mi,
        entropy_bits,
        error_bounds,
        excess,
        excess_kurtosis,
        gaussian_mi,
        holm_over_layers,
        integrated_gradient,
        kernel_cka,
        kernel_cka_gradient,
        ksg_mi,
        linear_cka,
        median_distance,
        nhsic,
        nhsic_dense,
        nhsic_gradient,
        null_scores,
        null_test,
        nulls_needed,
        peak_statistics,
        pearson_r2,
        pearson_r2_gradient,
        random_answers,
        received_attention,
        reduce_dimensions,
        sample_hsic,
        score_function,
        settling_depth,
        shuffled_kurtosis,
        thinking_tokens,
        top_k_peaks,
        tukey_peaks,
        v_information,
    )

    __version__: str

__all__ = [
    "GRADIENTS",
    "SCORES",
    "AnswerProbe",
    "BandwidthSweep",
    "Circuit",
    "Component",
    "Condition",
    "Depth",
    "Differentiable",
    "EdgeEffects",
    "Encoding",
    "ErrorBounds",
    "Excess",
    "Information",
    "InputError",
    "IntegratedGradient",
    "Intervention",
    "Metric",
    "MiAttribution",
    "NodeEffects",
    "NullTest",
    "PeakStatistics",
    "PieceResiduals",
    "Positions",
    "Problem",
    "Ray",
    "ReceiverHeads",
    "ResidualPieces",
    "ResidualSites",
    "ResidualStream",
    "Rollout",
    "Row",
    "SampleHsic",
    "ScoreFunction",
    "Scores",
    "Site",
    "Step",
    "StepResiduals",
    "Study",
    "ThinkingToken",
    "TraceRun",
    "Trajectory",
    "VInformation",
    "Writes",
    "ablate_receivers",
    "answer_log_probability",
    "answer_probe",
    "attribute_run",
    "attribution",
    "bandwidth_sweep",
    "bundle",
    "bundled_model_path",
    "bundled_problems",
    "cka",
    "cosine",
    "cosine_gradient",
    "decode",
    "depth_controlled",
    "discrete_mi",
    "encode",
    "engine_told",
    "entropy_bits",
    "error_bounds",
    "excess",
    "excess_kurtosis",
    "export_responses",
    "gaussian_mi",
    "grading",
    "holm_over_layers",
    "integrated_gradient",
    "interventions",
    "kernel_cka",
    "kernel_cka_gradient",
    "ksg_mi",
    "linear_cka",
    "list_models",
    "load_model",
    "load_problems",
    "load_responses",
    "log_probability",
    "log_to",
    "logit_attribution",
    "logit_difference",
    "make_study",
    "matched_contrasts",
    "mean_writes",
    "median_distance",
    "merge",
    "mi_attribution",
    "nhsic",
    "nhsic_dense",
    "nhsic_gradient",
    "nhsic_metric",
    "node_measure",
    "null_scores",
    "null_test",
    "nulls_needed",
    "only_engine",
    "patch_edges",
    "patch_nodes",
    "patch_sweep",
    "peak_statistics",
    "pearson_r2",
    "pearson_r2_gradient",
    "probes",
    "pull_model",
    "random_answers",
    "read",
    "read_writes",
    "received_attention",
    "receiver_heads",
    "reduce_dimensions",
    "residual_metric",
    "run_study",
    "sample_hsic",
    "score",
    "score_function",
    "score_metric",
    "sentence_receivers",
    "settling_depth",
    "shuffled_kurtosis",
    "stats",
    "studies",
    "thinking_tokens",
    "top_k_peaks",
    "trace",
    "tukey_peaks",
    "v_information",
    "views",
    "zero_writes",
]

_ROOMS = {
    "attribution": "analyses.attribution",
    "grading": "analyses.grading",
    "interventions": "interp.interventions",
    "probes": "probes",
    "stats": "analyses.stats",
    "studies": "analyses.studies",
    "views": "analyses.views",
}
_ANALYSES = {
    "Circuit": "analyses.attribution",
    "Condition": "analyses.studies.base",
    "EdgeEffects": "analyses.attribution",
    "NodeEffects": "analyses.attribution",
    "Problem": "analyses.problems",
    "Ray": "analyses.work.on_ray",
    "Study": "analyses.studies.base",
    "TraceRun": "analyses.trace",
    "Trajectory": "analyses.trace",
    "attribute_run": "analyses.trace",
    "bundle": "analyses.sharing",
    "bundled_problems": "analyses.problems",
    "export_responses": "analyses.responses",
    "load_problems": "analyses.problems",
    "load_responses": "analyses.responses",
    "MiAttribution": "analyses.attribution",
    "log_to": "analyses.sharing",
    "logit_attribution": "analyses.attribution",
    "mi_attribution": "analyses.attribution",
    "make_study": "analyses.studies",
    "matched_contrasts": "analyses.attribution",
    "mean_writes": "analyses.attribution",
    "merge": "analyses.sharing",
    "nhsic_metric": "analyses.attribution",
    "node_measure": "analyses.attribution",
    "patch_edges": "analyses.attribution",
    "patch_nodes": "analyses.attribution",
    "patch_sweep": "analyses.attribution",
    "ReceiverHeads": "analyses.attribution",
    "ablate_receivers": "analyses.attribution",
    "receiver_heads": "analyses.attribution",
    "residual_metric": "analyses.attribution",
    "run_study": "analyses.studies.run",
    "score_metric": "analyses.attribution",
    "sentence_receivers": "analyses.attribution",
    "trace": "analyses.trace",
    "zero_writes": "analyses.attribution",
}
_INTERP = {
    "Component", "Encoding", "InputError", "Intervention", "Metric", "PieceResiduals", "Positions", "ResidualPieces",
    "ResidualSites", "ResidualStream", "Rollout", "Row", "Scores", "Site", "Step", "StepResiduals", "Writes",
    "answer_log_probability", "bundled_model_path", "decode", "encode", "engine_told", "list_models", "load_model",
    "log_probability", "logit_difference", "only_engine", "pull_model", "read", "read_writes", "score",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("peaklens")
    elif name not in __all__:
        raise AttributeError(f"module 'peaklens' has no attribute {name!r}")
    elif name in _ROOMS:
        value = importlib.import_module(_ROOMS[name])
    else:
        home = _ANALYSES.get(name) or ("interp" if name in _INTERP else "probes")
        value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__version__"])
