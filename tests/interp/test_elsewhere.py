"""What only a process that begins anew can tell: what an import loads, and what the first loading leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import families as F
import pytest

from interp.loading.models import load_model, weight_hash

# One process, since its imports take seconds. What must find nothing imported yet is forked from it at its beginning,
# when it has only what everything needs.
CODE = """
import json, os, random, sys, warnings
import numpy, torch

def forked(does, **environment):
    taken, given = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            os.write(given, does().encode())
        finally:
            os._exit(0)
    os.close(given)
    with os.fdopen(taken) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text

def imports():
    import interp.loading.models
    return repr({"transformer_lens", "transformers", "pandas"} & set(sys.modules))

def offline():
    from interp.loading.hub import hub_folder
    try:
        hub_folder("Qwen/Qwen3-0.6B", None)
    except Exception as error:
        return str(error)

told = {"imports": forked(imports), "offline": forked(offline, HF_HUB_OFFLINE="1"), "changed": []}

import datasets, tokenizers  # which set up logging and filters of their own
from transformers.utils import logging

def state():
    return (logging.get_verbosity(), [str(f) for f in warnings.filters], dict(os.environ), torch.get_default_dtype(),
            torch.is_grad_enabled(), torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()),
            logging.is_progress_bar_enabled(), torch.get_num_threads(), os.getcwd())

for verbosity in (logging.set_verbosity_info, logging.set_verbosity_warning):  # the first time with all imports
    verbosity()
    before = state()
    from interp import decode, load_model
    decode(load_model("toy-reasoner"), ["6 A * 3 B - 8 ? ->"], max_new_tokens=3, temperature=1.0)
    told["changed"] += [[str(old), str(new)] for old, new in zip(before, state()) if old != new]

try:
    load_model("Qwen/Qwen3-0.6B")
except Exception as error:
    told["unreachable"] = str(error)
from interp.loading.models import weight_hash

told["hash"] = weight_hash(load_model(sys.argv[1]))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    F.hf_model("llama").save_pretrained(path)
    F.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it comes to in another process, which reaches no hub."""
    hub = {"HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)],
        env={**os.environ, **hub},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_import_is_light(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["imports"] == "set()"


def test_loading_leaves_the_process_as_it_was(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["changed"] == []


@pytest.mark.parametrize("how", ["unreachable", "offline"])
def test_hub_out_of_reach(how: str, elsewhere: dict[str, Any]) -> None:
    error = elsewhere[how]
    assert "expected the model in the local cache, or a hub that answers, received neither: the hub is out" in error
    assert "Connect to the network, or pass a local folder (no folder 'Qwen/Qwen3-0.6B' was found here)." in error


def test_the_hash_of_weights_is_the_same_in_every_process(folder: Path, elsewhere: dict[str, Any]) -> None:
    assert elsewhere["hash"] == weight_hash(load_model(folder))
