"""Sweeps of which a cell is killed at a random moment, DEGRADE_TEST_KILLS of them; each takes half a minute."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from degrade.runs import find_records
from degrade.runs.many import Cell
from tests.conftest import SMALL
from tests.test_sweep import cells_of, start, trainers

COUNT = int(os.environ.get("DEGRADE_TEST_KILLS", "0"))
FIRST = int(os.environ.get("DEGRADE_TEST_KILLS_FROM", "0"))
WORDS = [
    "seed=0,1,2",
    "recipe.iterations=300",
    "eval.every=20",
    "recipe.milestones=[150]",
    "launcher.jobs=2",
]


def states(cells: list[Cell]) -> dict[str, str]:
    return {str(cell.record.path): cell.outcome for cell in cells}


@pytest.mark.skipif(not COUNT, reason="DEGRADE_TEST_KILLS=30 scripts/test tests/test_kills.py runs it")
@pytest.mark.parametrize("number", range(FIRST, FIRST + COUNT))
def test_a_cell_killed_at_a_random_moment_is_finished_by_the_same_command(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(number)
    process = start(tmp_path, *WORDS)
    time.sleep(chance.uniform(4, 14))
    while not (victims := trainers(process, tmp_path)) and process.poll() is None:
        time.sleep(0.1)  # between two cells
    if victims:
        os.kill(chance.choice(sorted(victims.values())), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1), err
    cells = cells_of(*SMALL, *WORDS[:-1])
    after = states(cells)
    assert list(after.values()).count("complete") >= 2, "a kill took another cell with it"
    finished = {cell.record.path: cell.record.summary for cell in cells if cell.finished}

    process = start(tmp_path, *WORDS)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert set(states(cells).values()) == {"complete"}
    for cell in cells:
        sessions = [session["first_iteration"] for session in cell.record.sessions]
        if cell.record.path in finished:
            assert cell.record.summary == finished[cell.record.path], "a finished cell was trained again"
            assert sessions == [0]
        else:
            # It went on from its last checkpoint; one that was killed before its first began anew.
            assert sessions[0] == 0 or len(sessions) == 1
        iterations = [row["iteration"] for row in cell.record.rows()]
        assert iterations == list(range(20, 301, 20))
    assert len(find_records([tmp_path])) == 3
    print(f"kill {number}: {len(victims)} running, then {sorted(after.values())}")  # noqa: T201 - for the report
