"""What is made from the sources is current, and what it says is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from documents import DOCUMENTS, ROOT, api, errors_page

from interp import InputError, decode, load_model

ERRORS = (ROOT / "docs" / "ERRORS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", DOCUMENTS)
def test_what_is_made_from_the_sources_is_current(file: str) -> None:
    assert (ROOT / file).read_text(encoding="utf-8") == DOCUMENTS[file](), "run: make docs"


def listed(error: InputError) -> bool:
    """Whether the page has the error's words, its `…` standing for anything."""
    lines = [line for line in ERRORS.splitlines() if ": expected " in line]
    said = f"{error.operation}: expected {error.expected}, received {error.received}".replace("\n", " ")
    patterns = ("|".join(re.escape(part).replace("…", ".*") for part in [line]) for line in lines)
    return any(re.fullmatch(pattern, said) for pattern in patterns)


def sampled(what: str) -> Callable[[], object]:
    from analyses.problems import load_problems
    from analyses.studies import find_study, make_study
    from interp.loading.pull import pull_model
    from probes import nhsic

    return {
        "decode": lambda: decode(load_model("toy-reasoner"), [""], max_new_tokens=2),
        "load": lambda: load_model("no/such-model-here"),
        "pull": lambda: pull_model("nothing"),
        "problems": lambda: load_problems("no-such-file.jsonl"),
        "study": lambda: find_study("surpress"),
        "options": lambda: make_study("suppress", {"draws": "0"}),
        "probe": lambda: nhsic(torch.zeros(3, 4), torch.zeros(4), eps=-1.0),
    }[what]


@pytest.mark.parametrize("what", ["decode", "load", "pull", "problems", "study", "options", "probe"])
def test_an_error_that_is_raised_is_found_on_the_page(what: str) -> None:
    with pytest.raises(InputError) as raised:
        sampled(what)()
    assert listed(raised.value), str(raised.value)


def test_every_error_of_the_sources_is_on_the_page() -> None:
    """By counting: each call names a remedy, and each remedy that is plain text stands there."""
    plain = re.compile(r'remedy="([^"{}\\]+)"')
    for package in ("interp", "probes", "analyses"):
        for file in set((ROOT / package).rglob("*.py")) - {ROOT / package / "errors.py"}:  # it has an example only
            for remedy in plain.findall(file.read_text(encoding="utf-8")):
                assert remedy in ERRORS, f"{file} has a remedy that the page lacks"
    assert errors_page().count(": expected ") > 300


def test_every_public_name_is_told_in_a_sentence() -> None:
    for module, names in api().items():
        for name, said in names:
            assert len(said) > 8, f"{module}.{name} says nothing"
            assert said.endswith((".", ")", ";")), f"{module}.{name} says {said!r}"


def test_the_citation_is_valid() -> None:
    """By the rules of the Citation File Format 1.2.0, as far as this file uses it."""
    import importlib.metadata

    import yaml

    cited = yaml.safe_load(Path(ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(cited), "what the format asks for"
    allowed = {
        "abstract", "authors", "cff-version", "commit", "contact", "date-released", "doi", "identifiers", "keywords",
        "license", "license-url", "message", "preferred-citation", "references", "repository", "repository-artifact",
        "repository-code", "title", "type", "url", "version",
    }  # fmt: skip
    assert set(cited) <= allowed
    assert cited["type"] == "software"
    assert str(cited["version"]) == importlib.metadata.version("peaklens")
    assert cited["license"] == "MIT"
    for reference in cited["references"]:
        assert {"authors", "title", "type"} <= set(reference)
        assert all(set(author) <= {"family-names", "given-names", "orcid"} for author in reference["authors"])
        assert reference["identifiers"][0]["value"].removeprefix("arXiv:") in reference["url"]
