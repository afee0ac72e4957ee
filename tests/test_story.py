"""`degrade story`: its chapters in order, what is said before each, and what stops it."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from degrade.cli import probe, train, understand
from degrade.cli.story import Step, _make
from degrade.errors import RunFailed
from tests.conftest import Outcome
from tests.records import story


def test_chapters_are_made_in_order_and_end_in_one_page(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that make them are tested elsewhere; here they note how they are called."""
    called: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    errors: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        "plain-20": ([30.0], [40.0]),
        "plain-56": ([70.0], [70.0]),
    }
    story(tmp_path / "outputs", errors, "recipe=quick")
    for module, name in (
        (train, "reproduce"),
        (understand, "inspect"),
        *((probe, f"probe_{name}") for name in ("gradients", "responses", "landscape", "construct")),
    ):

        def noted(*words: Any, _name: str = name, **how: Any) -> int:
            called.append((_name, words, how))
            return 0

        monkeypatch.setattr(module, name, noted)
    done = cli("story", "--seeds", "2", "optim.lr=0.05")
    assert (done.code, done.out.splitlines()[-1]) == (0, "page: outputs/story.html")
    assert "raise a plain network" in (tmp_path / "outputs" / "story.html").read_text()
    own = ["optim.lr=0.05"]
    quick = Path("outputs/quick")
    assert called[0] == ("reproduce", (["story", *own],), {"seeds": 2})
    assert called[1][2]["output"] == quick / "compare.png"
    assert called[2:5] == [
        ("reproduce", (["vgg_wall", *own],), {}),
        ("probe_gradients", (["experiment=gradients", *own],), {}),
        ("probe_responses", ([quick],), {"device": None}),
    ]
    assert called[5][:2] == ("probe_landscape", ([quick / "plain-56/seed-0", quick / "residual-56/seed-0"],))
    assert called[6] == (
        "probe_construct",
        (quick / "plain-20/seed-0", 56),
        {"iterations": 300, "device": None},
    )
    assert [line for line in done.out.splitlines() if line.startswith("== ")][:2] == [
        "== 1 of 7: plain and residual networks",
        "== 2 of 7: small convolutions beside large ones",
    ]


def test_the_time_left_follows_the_work_and_a_failed_chapter_stops_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "degrade.run")
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def lasting(seconds: float, code: int = 0) -> Callable[[], int]:
        def make() -> int:
            nonlocal now
            now += seconds
            return code

        return make

    steps = [
        Step("a", 50, lasting(0)),
        Step("b", 10, lasting(60)),
        Step("c", 20, lasting(9, code=130)),
        Step("d", 1, int),
    ]
    with pytest.raises(RunFailed, match=r"c: not made \(exit code 130\); the same command goes on from there"):
        _make(steps)
    # What takes no time was there before, and tells nothing of the speed.
    assert [message.strip() for message in caplog.messages] == [
        "== 1 of 4: a",
        "== 2 of 4: b",
        "== 3 of 4: c; 2 min left for all",
    ]
