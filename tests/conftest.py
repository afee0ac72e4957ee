"""Fixtures: the real configs, shrunk, into a temporary folder."""

import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from degrade import cores
from degrade.cli import main
from degrade.config import Experiment, compose
from degrade.runs import RunRecord, run_directory

#: Small enough for a second or two a run, large enough for several batches an epoch with a ragged last one.
#: In fp32, since `auto` means another precision on another machine.
SMALL = [
    *("recipe=smoke", "data=synthetic", "data.train_limit=90", "data.test_limit=40", "model.depth=8"),
    "runtime.precision=fp32",
]


def small_but(*words: str) -> list[str]:
    """SMALL and further settings for a command line, which takes none twice: they stand in place of SMALL's."""
    keys = {word.partition("=")[0] for word in words}
    return [*(word for word in SMALL if word.partition("=")[0] not in keys), *words]


def pytest_configure() -> None:
    """Where a shell started the tests in the background, Ctrl-C is ignored, by the commands that they start too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let all cores seem idle, whatever runs beside the tests, other tests above all; each test begins alike."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    monkeypatch.setattr(cores, "look", lambda: cores.Cores(count, math.inf, 0.0))
    cores.at_first.cache_clear()
    cores.usable.cache_clear()
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    yield
    cores.at_first.cache_clear()
    cores.usable.cache_clear()
    if torch:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same few synthetic images once; each time takes as long as drawing 5,000."""
    if sources := sys.modules.get("degrade.data.sources"):
        draw = sources.synthetic_images

        def drawn(*, seed: int, train: int, test: int) -> Any:
            key = (seed, train, test)
            if train + test > 1000:
                return draw(seed=seed, train=train, test=test)
            if key not in _drawn:
                _drawn[key] = draw(seed=seed, train=train, test=test)
            return _drawn[key]

        monkeypatch.setattr(sources, "synthetic_images", drawn)


#: What `drawn_once` has drawn, by seed and numbers of images.
_drawn: dict[tuple[int, int, int], Any] = {}


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Experiment]:
    """Compose a small experiment with records below tmp_path."""

    def make(*overrides: str) -> Experiment:
        return compose([*SMALL, f"output={tmp_path / 'outputs'}", *overrides])

    return make


@pytest.fixture
def trained(small: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunRecord]:
    """What `run(small(...))` leaves, trained once for all tests that ask for it and copied for each."""

    def make(*overrides: str) -> RunRecord:
        experiment = small(*overrides)
        record = RunRecord(run_directory(experiment))
        key = repr(replace(experiment, output="anywhere"))
        if key not in _trained:
            from degrade.runs import run  # here, since it imports torch

            _trained[key] = tmp_path_factory.mktemp("trained") / "run"
            shutil.copytree(run(experiment).path, _trained[key])
        elif not record.exists:
            shutil.copytree(_trained[key], record.path)
        return record

    return make


#: Where the runs of `trained` are kept, by their settings.
_trained: dict[str, Path] = {}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


#: The fixtures `cli`, `small` and `trained`.
Cli = Callable[..., Outcome]
Make = Callable[..., Experiment]
Trained = Callable[..., RunRecord]


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Run a command line in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEGRADE_DEBUG", raising=False)

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
