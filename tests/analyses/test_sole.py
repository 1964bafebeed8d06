"""A command with a cluster has a run's folder for itself; others share it."""

from __future__ import annotations

import fcntl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import ToyForks

from analyses.work import sole
from analyses.work.sole import AT_WORK, at_work
from interp import InputError

TOGETHER = {(False, False)}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_only_commands_without_a_cluster_go_together(first: bool, second: bool, tmp_path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(at_work(tmp_path, alone=first))
        if (first, second) not in TOGETHER:
            stack.enter_context(pytest.raises(InputError, match=r"^work on a run: expected .*the same command then"))
        stack.enter_context(at_work(tmp_path, alone=second))
    with at_work(tmp_path, alone=True):  # both have ended
        pass
    assert (tmp_path / AT_WORK).read_text() == ""


HOLDS = """
import sys, time
from pathlib import Path
from analyses.work.sole import at_work
with at_work(Path(sys.argv[1]), alone=True):
    Path(sys.argv[1], "there").touch()
    time.sleep(60)
"""


def test_one_that_was_killed_holds_nobody_off(tmp_path: Path, toy_forks: ToyForks) -> None:
    process = toy_forks.spawn(HOLDS, tmp_path)
    while not (tmp_path / "there").exists() or not (tmp_path / AT_WORK).read_text():
        assert not toy_forks.has_ended(process)
        time.sleep(0.01)
    said = rf"where process {process} on \S+ does, with a cluster"
    with pytest.raises(InputError, match=said), at_work(tmp_path, alone=False):
        pass
    toy_forks.kill(process)
    assert (tmp_path / AT_WORK).read_text(), "it could not take it back"
    begun = time.monotonic()
    with at_work(tmp_path, alone=True):
        assert time.monotonic() - begun < sole.BEAT, "the lock says that it has ended"


@pytest.mark.parametrize("alone", [False, True])
def test_where_there_are_no_locks_the_text_holds_off(
    alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(sole, "BEAT", 0.02)
    with monkeypatch.context() as busy, at_work(tmp_path, alone=True):
        busy.setattr(sole, "_MISSED", 500)  # the machine may be; it is found out at the first change
        with pytest.raises(InputError, match="with a cluster"), at_work(tmp_path, alone=alone):
            pass
    with at_work(tmp_path, alone=alone):
        pass
    (tmp_path / AT_WORK).write_text("elsewhere 1 00000000000000000001 000000007\n")  # left by one that was killed
    with at_work(tmp_path, alone=alone):
        pass


def test_a_machine_that_locks_do_not_reach_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole, "BEAT", 0.02)
    monkeypatch.setattr(sole, "_MISSED", 500)
    with at_work(tmp_path, alone=True), monkeypatch.context() as elsewhere:
        elsewhere.setattr(sole, "_hold", lambda file, alone: True)  # as another machine would have it
        elsewhere.setattr(sole.platform, "node", lambda: "elsewhere")
        with pytest.raises(InputError, match="with a cluster"), at_work(tmp_path, alone=True):
            pass
