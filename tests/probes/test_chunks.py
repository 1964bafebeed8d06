"""Parts cover everything once, in order, and are as large as allowed; every probe takes its parts from here."""

import ast
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import probes
from probes.chunks import in_cache, parts

small = st.integers(1, 50)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(0, 50), st.integers(1, 500), st.none() | small, st.booleans())
def test_parts_cover_everything_once_and_fit(total, bytes_each, max_bytes, most, even):
    found = list(parts(total, bytes_each, max_bytes, most=most, even=even))
    assert [i for part in found for i in range(total)[part]] == list(range(total))
    sizes = [part.stop - part.start for part in found]
    allowed = min(max(1, max_bytes // max(1, bytes_each)), most or math.inf)
    assert max(sizes, default=1) <= allowed
    assert len(found) == math.ceil(total / allowed), "no more parts than needed, even ones too"
    if even and sizes:
        assert sizes[0] == math.ceil(total / len(sizes))
    elif sizes:
        assert set(sizes[:-1]) <= {allowed}


def test_a_pass_on_a_cpu_stays_in_cache_and_on_a_gpu_is_free():
    assert in_cache(576, torch.device("cuda")) is None
    here = in_cache(576, torch.device("cpu"))
    assert here == 2**15 * torch.get_num_threads() // 576
    assert in_cache(10**9, torch.device("cpu")) == 1


@pytest.mark.parametrize("path", sorted(Path(probes.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_no_probe_has_a_chunk_loop_of_its_own(path):
    """A tensor's own `split` and `chunk`, and ranges with a step, are how such loops are written.

    Compiled code knows no generators: its loops over a row's coordinates are in blocks of a first cache.
    """
    if path.stem in {"chunks", "compiled"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in {"split", "chunk", "tensor_split"}, f"line {node.lineno}: take parts(...)"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            assert len(node.args) < 3, f"line {node.lineno}: take parts(...)"
