"""`make gpu-check`: refused without a device; a dry run of its own code on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses.bench import gpu


def test_without_a_device_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_dry_run_prints_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU nothing waits: a page that counted a wait here would count wrong."""
    page = tmp_path / "page.txt"
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--device", "cpu", "--quick", "--no-suite", "--out", str(page)])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert page.read_text(encoding="utf-8") == said
    assert "a dry run" in said
    assert "ok      captured steps were captured: twin (sdpa, captured steps)" in said
    assert said.count("100%") == 6, "each way of decoding has the tokens of Hugging Face"
    assert said.endswith("everything that was checked holds\n")


def test_a_test_that_fails_is_on_the_page(tmp_path: Path) -> None:
    """The device reaches the tests by their environment."""
    test = "import os\n\ndef test_{0}():\n    assert os.environ['PEAKLENS_TEST_DEVICE'] == 'cuda:1'\n    assert {0}\n"
    (tmp_path / "test_one.py").write_text(test.format(1), encoding="utf-8")
    assert gpu.run_suite("test_one.py", tmp_path, "cuda:1")[0]
    (tmp_path / "test_two.py").write_text(test.format(0), encoding="utf-8")
    passed, said = gpu.run_suite(".", tmp_path, "cuda:1")
    assert not passed
    assert "test_two.py::test_0" in said[0]
    assert "1 failed, 1 passed" in said[-1]
    page = gpu.Page()
    page.check(passed, "tests")
    assert page.failed == ["tests"]
