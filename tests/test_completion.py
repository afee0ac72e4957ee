import inspect
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from degrade.analysis.curves import BANDS
from degrade.analysis.export import FORMATS
from degrade.cli import completion
from degrade.cli.data import export
from degrade.cli.look import plot
from degrade.config import Experiment
from degrade.config.launcher import LAUNCHERS
from degrade.config.schema import settings
from tests.conftest import SMALL, Cli
from tests.records import finished


def test_keys_groups_and_values_are_completed() -> None:
    assert {"model=", "model.depth=", "optim.lr=", "recipe=", "seed="} <= set(completion.settings(""))
    families = ("bottleneck", "plain", "preact", "residual", "vgg", "wide")
    assert completion.settings("model=") == [f"model={name}" for name in families]
    norms = ("batch", "group", "layer", "weight_standardised", "none")
    assert completion.settings("model.norm=b") == [
        f"model.norm={name}" for name in norms
    ]  # Typer takes the fitting ones
    assert completion.settings("optim.l") == ["optim.lr=", "optim.lr=0.1"]
    assert completion.settings("optim.nes") == ["optim.nesterov=", "optim.nesterov=true", "optim.nesterov=false"]
    assert completion.settings("data.pixels=") == [f"data.pixels={side}" for side in (32, 16, 8)]
    assert completion.settings("runtime.device=") == [
        f"runtime.device={name}" for name in ("auto", "cpu", "cuda", "mps")
    ]
    assert completion.settings("nothing") == completion.settings("nothing=") == []
    assert completion.swept_settings("model=plain,r") == [
        f"model=plain,{name}" for name in families if name != "plain"
    ]
    assert completion.swept_settings("launcher=") == [f"launcher={name}" for name in LAUNCHERS]
    assert completion.swept_settings("launcher.part") == ["launcher.partition=", "launcher.partition=null"]
    assert completion.experiment_or_settings("launcher.jo") == ["launcher.jobs=", "launcher.jobs=auto"]
    assert "story" in completion.experiment_or_settings("")
    assert completion.experiment_or_settings("model.dep") == []
    assert "experiment=gradients" in completion.runs_or_settings("experiment=")


def test_what_is_completed_exists() -> None:
    assert settings().keys() == Experiment().flat().keys()
    for command, option, words in ((plot, "band", BANDS), (export, "form", FORMATS)):
        kind = get_args(inspect.signature(command).parameters[option].annotation)[0]
        choices = next((own for own in get_args(kind) if get_args(own)), kind)
        assert get_args(choices) == tuple(words), option
    assert completion.values_of("recipe")("qu") == ["quick"]


def test_runs_are_completed_below_what_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for network in ("plain-20", "plain-56"):
        finished(tmp_path / "outputs", network, 0, 0.1, 0.2)
    (tmp_path / "other" / "things").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text("")  # as in degrade's own folder: no run
    below = ["outputs/paper/plain-20/", "outputs/paper/plain-56/"]
    assert completion.runs("") == ["outputs/", "outputs/paper/", *below]  # down to where there is a choice
    assert completion.runs("outputs/paper/") == ["outputs/paper/plain-20/", "outputs/paper/plain-56/"]
    assert completion.runs("outputs/paper/plain-5") == [
        "outputs/paper/plain-56/",
        "outputs/paper/plain-56/seed-0",
    ]
    assert completion.runs(f"{tmp_path}/outp")[0] == f"{tmp_path}/outputs/"
    (tmp_path / "outputs").rename(tmp_path / "deep")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "deep").rename(tmp_path / "outputs" / "reference")
    assert completion.runs("")[:3] == ["outputs/", "outputs/reference/", "outputs/reference/paper/"]
    assert completion.runs("nowhere/") == completion.runs("othe") == []


def ask(folder: Path, **question: str) -> list[str]:
    """What a shell is answered, without torch."""
    (folder / "torch.py").write_text("raise ImportError('torch was imported')\n")
    (folder / "hydra.py").write_text("raise ImportError('hydra was imported')\n")
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, **question}
    done = subprocess.run(
        [sys.executable, "-m", "degrade"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_is_answered_by_the_part_behind_its_word_breaks(tmp_path: Path) -> None:
    words = "degrade\ntrain\nmodel\n=\nre"
    assert ask(tmp_path, _DEGRADE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="4") == ["residual"]
    whole = "degrade\ntrain\nmodel=re"  # where COMP_WORDBREAKS holds no =
    assert ask(tmp_path, _DEGRADE_COMPLETE="complete_bash", COMP_WORDS=whole, COMP_CWORD="2") == ["model=residual"]
    word = "degrade\nevaluate\n--statistics\nb"
    assert ask(tmp_path, _DEGRADE_COMPLETE="complete_bash", COMP_WORDS=word, COMP_CWORD="3") == ["batch"]
    file = "degrade\nplot\n--output\n"  # the shell itself completes names of files
    assert ask(tmp_path, _DEGRADE_COMPLETE="complete_bash", COMP_WORDS=file, COMP_CWORD="3") == [""]


@pytest.mark.parametrize(
    ("words", "index", "prefix", "joined", "at"),
    [
        ("degrade\ntrain\nmodel\n=", 3, "model=", "degrade\ntrain\nmodel=", 2),
        ("degrade\nplot\na,lr\n=\n0.05/se", 4, "a,lr=", "degrade\nplot\na,lr=0.05/se", 2),
        ("degrade\ntrain\nmodel\n=\nvgg\n", 5, "", "degrade\ntrain\nmodel=vgg\n", 3),
        ("degrade\ntrain\n--depth\n20\nx", 2, "", "degrade\ntrain\n--depth", 2),
    ],
)
def test_bashs_words_are_joined(
    words: str, index: int, prefix: str, joined: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(index))
    assert completion._join_words() == prefix
    assert (os.environ["COMP_WORDS"], os.environ["COMP_CWORD"]) == (joined, str(at))


SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell: str, tmp_path: Path) -> None:
    """`--install-completion`'s script in a shell on a terminal; what Tab makes of the words is run."""
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    command = tmp_path / "degrade"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m degrade "$@"\n')
    command.chmod(0o755)
    finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    script = subprocess.run([command, "--show-completion", shell], env=environment, capture_output=True, text=True)
    (tmp_path / "script").write_text(script.stdout)
    if shell == "fish":
        question = "complete -C 'degrade train model=re'; complete -C 'degrade plot outputs/paper/'; "
        question += "complete -C 'degrade expo'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source script; {question}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert "model=residual" in done.stdout, done.stdout + done.stderr
        assert "outputs/paper/plain-20" in done.stdout
        assert "export" in done.stdout
        return
    begin = "autoload -Uz compinit; compinit -u -D; " if shell == "zsh" else ""
    end, ended = "; echo en''ded\n", "ended"  # which is not what is typed, and the terminal repeats
    turns = [
        (f"{begin}source {tmp_path}/script{end}", ended),
        ("degrade train model=re\t", "sidual"),
        (f" --dry-run > one 2>&1{end}", ended),
        ("degrade runs outputs/paper/pl\t", "ain-20/"),
        (f"seed-0 > two 2>&1{end}", ended),
        ("degrade expo\t", "rt"),
        (f" outputs > three 2>&1{end}", ended),
        ("exit\n", ""),
    ]
    seen = typed_into([shell, *SHELLS[shell]], turns, tmp_path, environment)
    assert "family: residual" in (tmp_path / "one").read_text(), seen
    assert "complete" in (tmp_path / "two").read_text(), seen
    assert "test_error" in (tmp_path / "three").read_text(), seen


def typed_into(command: list[str], turns: list[tuple[str, str]], folder: Path, environment: dict[str, str]) -> str:
    """Run a program on a terminal to its end. Type each text and wait for the answer to it, 20 seconds at most."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    os.set_blocking(leader, False)
    seen = ""

    def read(answer: str | None) -> None:
        nonlocal seen
        before, deadline = len(seen), time.monotonic() + 20
        while (answer is None or answer not in seen[before:]) and time.monotonic() < deadline:
            try:
                seen += os.read(leader, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # the program has ended
                return

    try:
        for text, answer in turns:
            os.write(leader, text.encode())
            read(answer)
        read(None)
        process.wait(20)
    finally:
        process.kill()
        os.close(leader)
    return seen


def test_quiet_shows_no_bar_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "plain-8" in cli("train", *SMALL, "name=shown").err
    assert cli("train", *SMALL, "--quiet").err == ""


def test_quiet_and_verbose_stand_anywhere(cli: Cli) -> None:
    quiet = cli("train", *SMALL, "--quiet")
    assert quiet.code == 0
    assert [line.partition(" ")[0] for line in quiet.out.splitlines()] == ["complete", "record:", "next:"]
    verbose = cli("--verbose", "train", *SMALL, "log.every=1", "name=fine")
    assert len(verbose.out.splitlines()) > len(cli("train", *SMALL, "log.every=1", "name=usual").out.splitlines())
    both = cli("train", "--quiet", "--verbose")
    assert (both.code, both.err.count("\n")) == (2, 1)
    assert "--quiet" in cli("--help").out


@pytest.mark.parametrize("terminal", [True, False])
def test_colours_are_for_terminals_without_no_color(terminal: bool, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "degrade", "train", "--help"]
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "GITHUB_ACTIONS")}
    if not terminal:
        text = subprocess.run(
            command, cwd=tmp_path, env=plain | {"GITHUB_ACTIONS": "true"}, capture_output=True
        ).stdout
        assert b"\x1b" not in text
        return
    environment = {**plain, "TERM": "xterm-256color"}
    assert "\x1b[" in typed_into(command, [], tmp_path, environment)
    assert not any(f"\x1b[{n}" in typed_into(command, [], tmp_path, environment | {"NO_COLOR": "1"}) for n in (3, 9))


def test_commands_work_from_any_directory(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    elsewhere = tmp_path / "deep" / "down"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    for words in (["plot", "../../outputs"], ["export", "../../outputs"], ["train", "recipe=quick", "--dry-run"]):
        assert cli(*words).code == 0
    assert (tmp_path / "outputs/paper/figure.png").exists()
    monkeypatch.chdir("/")
    assert "complete" in cli("runs", str(tmp_path / "outputs")).out
