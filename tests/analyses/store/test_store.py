"""The cells of a run folder: round trips, hostile names, damage, and refusals by text."""

import pytest
import torch
from run_folders import refusal, start, temporaries

from analyses.store import Cell, Run
from analyses.store.atomic import quote_name, unquote_name

HOSTILE = ["../../etc/passwd", "a/b", "", ".", "..", "%", "~", "a~b", "x" * 300, "x" * 301, "🎉", "🎉" * 100, "A b\n\0"]
HOSTILE += [".tmp-x", "NA", "%2E", "é", "e\u0301", "\ud800", "CON", "-1", "a%2Fb", "%" * 200]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
        torch.empty(0, 7),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
        torch.ones(10).expand(4, 10),
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.tensor([1 + 2j, 3j]).conj().imag,
        torch.nn.Parameter(torch.ones(2)),
        torch.tensor([float("nan"), float("inf"), -0.0]),
        torch.arange(4).to(torch.float8_e5m2),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_tensors_round_trip(run, tensor):
    run.write(Cell("p1"), {"a": tensor}, {})
    back = run.read(Cell("p1")).tensors["a"]
    assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, False)
    plain = tensor.detach().contiguous()
    assert torch.equal(
        back.reshape(-1).view(torch.uint8), plain.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    )


def test_views_of_one_tensor_round_trip_and_cost_only_their_own_size(run):
    whole = torch.arange(100_000.0)
    views = {"whole": whole, "again": whole, "head": whole[:3], "tail": whole[-3:]}
    run.write(Cell("p1"), views, {})
    back = run.read(Cell("p1")).tensors
    assert all(torch.equal(back[name], views[name]) for name in views)
    run.write(Cell("p2"), {"head": whole[:3]}, {})
    assert (run.path / "cells/baseline/p2/0.safetensors").stat().st_size < 1000


def test_payload_round_trip(run):
    payload = {
        "text": 'a "quoted"\r\n🎉\ud800\0',
        "steps": [1, 2.5, None, True],
        "nested": {"": {"k": []}},
        "big": 2**70,
    }
    run.write(Cell("p1"), {}, payload)
    assert run.read(Cell("p1")).payload == payload
    assert run.read(Cell("p1")).tensors == {}
    run.write(Cell("p1"), {}, {"mi": [float("nan")], "pair": (1, 2)})
    back = run.read(Cell("p1")).payload
    assert back["mi"][0] != back["mi"][0]
    assert back["pair"] == [1, 2]


def test_writing_again_replaces(run):
    for value in range(3):
        run.write(Cell("p1"), {"a": torch.full((value,), value)}, {"value": value})
    assert run.cells() == [Cell("p1")]
    assert run.read(Cell("p1")).payload == {"value": 2}
    assert temporaries(run.path) == []


def test_any_id_is_safe(run):
    cells = [
        Cell(name, sample, condition=condition)
        for name in HOSTILE
        for sample, condition in ((0, "baseline"), (11, name))
    ]
    for number, cell in enumerate(cells):
        run.write(cell, {"n": torch.tensor(number)}, {})
    assert sorted(run.cells()) == sorted(cells)
    assert [run.read(cell).tensors["n"].item() for cell in cells] == list(range(len(cells)))
    inside = [file for file in run.path.rglob("*") if file.is_file() and file.suffix == ".safetensors"]
    assert len(inside) == len(cells)
    assert {len(file.relative_to(run.path).parts) for file in inside} == {4}
    assert sorted(file.name for file in run.path.parent.iterdir()) == ["run"]


def test_names_are_one_component_and_turn_back():
    quoted = [quote_name(name) for name in HOSTILE]
    assert len(set(quoted)) == len(HOSTILE)
    for name, component in zip(HOSTILE, quoted, strict=True):
        assert component.isascii()
        assert not set(component) & set("/\\\0: \n")
        assert 0 < len(component) <= 120
        assert component[0] != "."
        assert unquote_name(component) == (None if "~" in component else name)
    assert unquote_name("%FF") is None
    assert unquote_name("%2f") is None


def test_cells_are_in_order_and_nothing_else_is_listed(run):
    for cell in [Cell("p1", 10), Cell("p1", 9), Cell("zz"), Cell("p2"), Cell("aa"), Cell("p9", condition="ablate")]:
        run.write(cell, {}, {})
    folder = run.path / "cells/baseline/p2"
    for name in (".tmp-00-1-aa", "notes.txt", "01.safetensors", "x.safetensors", "²" + ".safetensors"):
        (folder / name).write_text("x")
    (run.path / "cells/baseline/not quoted").mkdir()
    (run.path / "cells/baseline/not quoted/0.safetensors").write_text("x")
    baseline = [Cell("p2"), Cell("p1", 9), Cell("p1", 10), Cell("aa"), Cell("zz")]
    assert run.cells() == [Cell("p9", condition="ablate"), *baseline]
    assert run.cells("baseline") == baseline
    assert run.cells("none") == []
    assert run.has(Cell("p1", 9))
    assert not run.has(Cell("p1", 8))


def test_problems_may_be_a_list_or_anything_else(tmp_path):
    for number, (problems, first) in enumerate([(["b", "a"], "b"), ("b.jsonl", "a"), (7, "a"), ([{"id": "b"}], "a")]):
        run = start(tmp_path / str(number), settings={"problems": problems})
        run.write(Cell("a"), {}, {})
        run.write(Cell("b"), {}, {})
        assert run.cells()[0].problem == first


def test_damaged_cells_are_named(run):
    for name in ("p1", "x" * 300):
        run.write(Cell(name), {"a": torch.arange(100)}, {"k": 1})
        (file,) = (run.path / "cells/baseline" / quote_name(name)).iterdir()
        whole = file.read_bytes()
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        foreign = run.path / "foreign.safetensors"
        other = start(run.path.parent / "other")
        other.write(Cell("other"), {"a": torch.arange(100)}, {"k": 1})
        foreign = (other.path / "cells/baseline/other/0.safetensors").read_bytes()
        for damaged in (b"", whole[:4], whole[:50], whole[:-1], whole + b"x", bytes(len(whole)), flipped, foreign):
            file.write_bytes(damaged)
            message = refusal(run.read, Cell(name))
            assert message.startswith(f"read cell: expected a whole {file}, received ")
            assert message.endswith("Delete this file and run again: only its cell is recorded anew.")
        file.write_bytes(whole[:50])
    assert "expected a whole" in refusal(run.cells)  # the shortened name can only be read from the damaged file


def test_a_file_of_another_writer_is_damaged(run):
    from safetensors.torch import save_file

    run.write(Cell("p1"), {}, {})
    save_file({"a": torch.ones(2)}, run.path / "cells/baseline/p1/0.safetensors")
    assert "expected a whole" in refusal(run.read, Cell("p1"))


def test_bad_cells_are_refused(run):
    assert refusal(run.read, Cell("p1")) == (
        "read cell: expected a finished cell, received Cell(condition='baseline', problem='p1', sample=0), "
        f"not in {run.path}. See cells()."
    )
    assert "cell: expected a sample of at least 0, received -1" in refusal(Cell, "p1", -1)
    for payload in ({"a": torch.ones(1)}, {"a": {1, 2}}):
        assert "write cell: expected a payload of JSON values, received" in refusal(run.write, Cell("p1"), {}, payload)
    for tensor in (torch.eye(2).to_sparse(), torch.empty(2, device="meta"), torch.ones(2, dtype=torch.complex128)):
        message = refusal(run.write, Cell("p1"), {"a": tensor}, {})
        assert "expected dense tensors of plain numbers, received 'a': torch." in message
    assert "expected a run from Run.start" in refusal(Run.open(run.path).write, Cell("p1"), {}, {})
    assert run.cells() == []
    assert temporaries(run.path) == []


def test_a_payload_beyond_the_header_limit_is_refused(run, monkeypatch):
    monkeypatch.setattr("analyses.store.cells._HEADER_LIMIT", 1000)
    assert "Store long lists of numbers as tensors." in refusal(run.write, Cell("p1"), {}, {"a": "x" * 1000})
