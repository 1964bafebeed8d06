"""What the score of a run is and is not, how the run was made, and the command that makes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from analyses.report.digest import Digest
from analyses.store.columns import is_void
from analyses.store.run import Cell
from analyses.views.parts import listed, scrolling, small, source_facts
from analyses.views.wording import escaped, name_of, plain
from interp.display import details_table

__all__ = ["command", "made", "meaning"]

PAPER = "https://arxiv.org/abs/2506.02867"


def meaning(one: Digest) -> str:
    """What the score is and is not, with this run's settings."""
    settings = one.run.settings
    sigma, eps, drop = (settings.get(key) for key in ("sigma", "eps", "drop_top"))
    left_out = f"; the {drop} largest coordinates of the answer are left out" if drop else ""
    bandwidth = escaped(sigma) if isinstance(sigma, str) else plain(sigma) if sigma else "–"
    null = (
        "what survives them is in the part on wrong answers."
        if settings.get("null")
        else "this report has no such null (peaklens trace --null 99)."
    )
    points = [
        "nHSIC takes the coordinates of two residual-stream vectors, one of the step and one of the answer's last "
        "token, as paired samples and measures how dependent they are. It is a similarity of coordinates; it is not "
        "mutual information in bits or nats, whatever the name MI peaks says.",
        f"The kernel is Gaussian with sigma = {bandwidth} and the regularisation eps = "
        f"{eps if eps is not None else '–'}{left_out}. The score is bounded by the effective rank of the kernel "
        "matrices, so scores under another sigma, or of models of another width or scale, are not comparable.",
        "It may see the kind of position rather than the answer: a step like the reference's last token (a full stop, "
        "say, or the end of a number) resembles it whatever the answer is. The control for that are the answers of "
        f"other problems; {null}",
        "Peaks are a rule about outliers within one response and layer. Of any skewed distribution some steps are "
        "above the threshold.",
        f'Source: Qian et al. 2025, Demystifying Reasoning Dynamics with Mutual Information, <a href="{PAPER}" '
        'rel="noreferrer">arXiv 2506.02867</a>.',
    ]
    return listed(points)


def made(one: Digest) -> str:
    """Settings, model, versions, and the command."""
    settings = one.run.settings
    *source, versions = source_facts(one.run.provenance)
    facts: list[tuple[str, object]] = [
        ("run folder", one.name),
        ("created", one.run.created),
        ("model", name_of(settings.get("model", "–"))),
        *source,
    ]
    apart = ("model", "problems", "samples", "responses", "responses_from")
    shown = {key: value for key, value in settings.items() if key not in apart}
    facts += [("responses from", _source(source)) for source in settings.get("responses_from", ())]
    facts += [(key.replace("_", " "), _setting(value)) for key, value in shown.items()]
    facts += [
        ("problems", len(settings.get("problems", ()))),
        ("samples a problem", len(settings.get("samples", (0,)))),
        versions,
    ]
    text, remark = command(one)
    line = scrolling(f'<pre class="rp-command"><code>{escaped(text)}</code></pre>', "Command")
    return f"{details_table(facts)}<p>The command that makes this run:</p>{line}{small(remark)}"


def _source(source: Mapping[str, Any]) -> str:
    """Where responses came from, in a line."""
    forms = ", ".join(map(str, source.get("formats", ())))
    return f"{source.get('file')} ({forms}; SHA-256 {str(source.get('sha256'))[:12]}...)"


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def command(one: Digest) -> tuple[str, str]:
    """The command line of the run, each word quoted for a shell, and what has to be filled in."""
    settings = one.run.settings
    named = str(settings.get("model", "MODEL"))
    folder = name_of(named) != named
    words: list[tuple[str, object]] = [("--model", "MODEL_FOLDER" if folder else named)]
    remarks = [f"MODEL_FOLDER stands for the folder of {escaped(name_of(named))}."] if folder else []
    problems, sources = settings.get("problems", {}), settings.get("responses_from", ())
    words += [("--responses", source.get("file")) for source in sources]
    if sources:
        remarks.append(
            "Files of responses are named without their folders; --problems is needed where they say no gold."
        )
    elif not _are_bundled(problems):
        words.append(("--problems", "PROBLEMS.jsonl"))
        remarks.append("PROBLEMS.jsonl stands for the problem file, which a run does not name.")
    words.append(("--n", len(problems)))
    flags = (
        "max_new_tokens", "prompt", "reference", "reference_position", "site", "temperature", "top_p", "seed", "sigma",
        "eps", "drop_top", "tau", "dtype",
    )  # fmt: skip
    words += [(f"--{name.replace('_', '-')}", settings[name]) for name in flags if name in settings]
    words.append(("--layers", ",".join(map(str, settings.get("layers", one.layers)))))
    if not sources:
        words.append(("--samples", len(settings.get("samples", (0,)))))
    if probes := settings.get("probes"):
        words.append(("--probes", ",".join(["nhsic", *probes])))
    if (null := settings.get("null")) and not is_void(settings):
        words += [(f"--{name.replace('_', '-')}", null[name]) for name in ("null", "null_match", "null_statistic")]
    words.append(("--excess", (settings.get("excess") or {}).get("references", 0)))
    size = _batch_size(one)
    if size:
        words.append(("--batch-size", size))
    words.append(("--out", f"runs/{one.name}"))
    parts = [f"{flag} {shlex.quote(str(value))}" for flag, value in words]
    lines = ["peaklens trace", *(" ".join(parts[k : k + 4]) for k in range(0, len(parts), 4))]
    remarks.append("The folder is in runs/; any other will do.")
    return " \\\n    ".join(lines), " ".join(remarks)


def _are_bundled(problems: object) -> bool:
    from analyses.problems import bundled_problems

    if not isinstance(problems, dict) or not problems:
        return False
    known = {problem.id: problem.digest for problem in bundled_problems(len(problems))}
    return problems == known


def _batch_size(one: Digest) -> int | None:
    """How many responses were decoded together, as the first of them tells."""
    first = one.responses.iloc[0]
    cell = Cell(str(first["problem"]), int(first["sample"]))
    if not one.run.has(cell):
        return None
    payload = one.run.payload(cell)
    batch = payload.get("batch")
    return payload.get("rows") or (len(batch) if isinstance(batch, list) else None)
