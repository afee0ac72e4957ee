"""Hostile command lines: the answer comes soon whatever they say; a refusal is one line that names the bad value."""

import contextlib
import io
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from degrade.cli import main
from degrade.cli.refusals import shown
from degrade.config import Experiment, compose
from degrade.runs.record import run_directory
from tests.conftest import SMALL, Outcome, small_but

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # which would else lie in the checkout

#: Seconds that a refusal or a plan may take: ten times what it does, for a machine that is busy.
PATIENCE = 20.0

#: Lines of an answer that refuses.
LINES = 8

#: Values that broke something once, or look as if they might.
NASTY = [
    *("", " ", "-", "--", "=", "a=b", "nan", "inf", "-inf", "1e400", "-1e400", "0", "-0", "-1", "1.5", "1e-400"),
    *(
        "9" * 19,
        "9" * 20,
        "-" + "9" * 20,
        "9" * 5000,
        "1" + "0" * 4000,
        "0." + "0" * 5000 + "1",
        "0x10",
        "1_000",
        "٣",
    ),
    *(
        "\uff12\uff10",
        "²",
        "½",
        "null",
        "true",
        "on",
        "[",
        "]",
        "[]",
        "[1,2]",
        "[5,3]",
        "{}",
        "{a: 1}",
        "{a: {b: ",
        "'",
        '"',
    ),
    *("a'b", "\"'", "${", "${seed}", "${name}", "${nothing}", "${oc.env:NOPE}", "${oc.decode:'['}", "${..}", "~"),
    *(
        "~nobody-here/x",
        "!!python/object:os.system",
        "&a [*a]",
        "*",
        "%s",
        "{0}",
        "\\",
        "\\n",
        "a\nb",
        "a\rb",
        "a\tb",
    ),
    *(
        "\x1b[31mred",
        "\x00",
        "a\x00b",
        "\udc80",
        "a\ud800b",
        "\u202egpj.exe",
        "\u2028",
        "\ufeff",
        "\u00a0",
        "é",
        "🦄",
    ),
    *(
        "x" * 61,
        "x" * 300,
        "x" * 5000,
        "y/" * 3000,
        "x " * 200,
        "../..",
        "/etc/hostname",
        "/dev/null",
        "/dev/zero",
        "/proc/self/mem",
    ),
    *("pipe", "socket", "file", "folder", "range(1000000)", "range(1000000000000000000000)"),
    *(
        "range(0,1,1e-300)",
        "range(0,1,0)",
        "range(0,nan)",
        "range(0,1e400)",
        "shuffle(range(1000000000))",
        "range(5,0)",
    ),
    *("sort(range(1000000000))", "interval(0,1)", "glob(*)", "choice()", "1,2", ",", ",,", "1,", "x,x", "tag(a,1)"),
    *("auto", "cpu", "cuda:99", "cuda:٣", "plain", "paper", "smoke", "model.depth=57", "-h", "--help", "--quiet"),
]

#: The same command lines each time, so many that the tests of this file take less than a minute; nothing is kept.
DRAWN = settings(
    max_examples=90,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

values = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=12),
    st.text("09-+.eE_,=[]{}()'\"$~\\ :#%&*!|<>x", max_size=8),
    st.integers().map(str),
    st.floats().map(str),
)

#: Command lines with one place for a value, none of which trains: `{}` is the place.
PLACES = [
    *(
        [
            ("train", "--dry-run", option, "{}")
            for option in ("--depth", "--recipe", "--seed", "--device", "--precision")
        ]
    ),
    *([("train", "--dry-run", f"{key}={{}}") for key in (*Experiment().flat(), "model", "data", "recipe", "optim")]),
    ("train", "--dry-run", "--config", "{}"),
    ("train", "--dry-run", "{}"),
    ("train", "--dry-run", "{}=1"),
    ("train", "--dry-run", "--{}"),
    ("reproduce", "--dry-run", "{}"),
    ("reproduce", "--dry-run", "vgg_wall", "--seeds", "{}"),
    *([("reproduce", "--dry-run", option, "{}") for option in ("--recipe", "--output", "--band", "--format")]),
    *([("sweep", "--dry-run", f"{key}={{}}") for key in ("seed", "model", "optim.lr", "output", "launcher")]),
    ("sweep", "--dry-run", "seed=0", "launcher.jobs={}"),
    ("sweep", "--dry-run", "seed=0", "launcher=submitit_local", "launcher.timeout_min={}"),
    ("sweep", "--dry-run", "seed=0", "launcher.{}=1"),
    ("reproduce", "--dry-run", "launcher={}"),
    *([("bench", "--depths", "57", option, "{}") for option in ("--rounds", "--seconds", "--limit", "--workers")]),
    ("bench", "--depths", "57,{}"),
    ("bench", "--depths", "57", "--device", "{}"),
    *([("inspect", "--compare", "4x4", option, "{}") for option in ("--channels", "--output", "--format")]),
    ("inspect", "--compare", "{}", "--output", "nowhere.gif"),
    *([("plot", "nowhere", option, "{}") for option in ("--style", "--band", "--format", "--output", "--title")]),
    *([("export", "nowhere", option, "{}") for option in ("--format", "--output")]),
    *([("report", "nowhere", option, "{}") for option in ("--band", "--output")]),
    *([(command, "{}") for command in ("plot", "verify", "report", "export", "evaluate", "runs")]),
    *([("probe", command, "{}") for command in ("responses", "gradients", "kinds", "landscape")]),
    *([("probe", "landscape", "nowhere", option, "{}") for option in ("--grid", "--span", "--seed", "--limit")]),
    *([("probe", "construct", "nowhere", "--depth", "56", option, "{}") for option in ("--continue", "--limit")]),
    ("probe", "construct", "nowhere", "--depth", "{}"),
    ("probe", "gradients", "model.depth={}", "data=folder", "data.root=nowhere"),
    ("data", "info", "--root", "{}"),
    ("{}",),
    ("data", "{}"),
    ("probe", "{}"),
]


@pytest.fixture(scope="module", autouse=True)
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of records in which files are named pipes or sockets; commands run beside it."""
    folder = tmp_path_factory.mktemp("hostile")
    before = Path.cwd()
    (here := folder / "deep" / "down" / "here").mkdir(parents=True)
    os.chdir(here)
    Path("folder").mkdir()
    Path("file").write_text("")
    os.mkfifo("pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    for name, held in (("pipes", ()), ("settings", ("config.yaml",))):
        record = folder / "records" / name / "plain-8" / "seed-0"
        (record / "probes").mkdir(parents=True)
        for path in (*_RECORD, "probes/responses.csv", "probes/gradients.csv"):
            if path in held:
                (record / path).write_text(_SETTINGS)
            else:
                os.mkfifo(record / path)
    yield folder / "records"
    listener.close()
    os.chdir(before)


_RECORD = (
    *("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "checkpoint.pt", "checkpoint.prev.pt"),
    *("train.log", ".lock", "summary.json.tmp"),
)
_SETTINGS = """
model: {family: plain, depth: 8}
data: {name: synthetic, train_limit: 40, test_limit: 20}
optim: {lr: 0.1}
recipe: {name: smoke, iterations: 24}
seed: 0
name: settings
"""


def answered(*words: str) -> Outcome:
    """Run a command line in this process, on streams that are as particular about text as a terminal's."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    started = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    seconds = time.monotonic() - started
    assert seconds < PATIENCE, f"{seconds:.0f} s"
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Outcome(code, *texts)


def check_refusal(words: tuple[str, ...], outcome: Outcome) -> None:
    """What holds of every refusal."""
    assert outcome.code in (1, 2), (words, outcome)
    assert outcome.err.startswith("degrade: "), (words, outcome)
    assert "Traceback" not in outcome.err, (words, outcome)
    assert "unexpected" not in outcome.err, (words, outcome)
    assert outcome.err.count("\n") == 1, (words, outcome)
    assert outcome.err[:-1].isprintable(), (words, outcome)
    assert (outcome.out + outcome.err).count("\n") <= LINES, (words, outcome)
    assert len(outcome.err) < 2000, (words, outcome)


@pytest.mark.timeout(170)
@DRAWN
@given(place=st.sampled_from(PLACES), value=values)
def test_a_hostile_value_is_taken_or_refused_in_one_line_that_repeats_it(place: tuple[str, ...], value: str) -> None:
    words = tuple(word.replace("{}", value) for word in place)
    outcome = answered(*words)
    if outcome.code == 0:
        return
    check_refusal(words, outcome)
    pieces = {value, *value.split(","), value.strip(), repr(value)[1:-1], *value.split("\n")}
    named = [shown(piece, [*words, piece]) for piece in pieces if piece.strip() or piece == value]
    with contextlib.suppress(ValueError):
        named.append(str(int(value)))  # as an option of whole numbers reads 007
    others = [part for word in place for part in word.split(",") if "{}" not in part]
    assert any(piece in outcome.err for piece in [*named, *others]), (words, outcome)


#: Beginnings of command lines that train nothing whatever follows, and words that may.
BEGINNINGS = [
    *(("train", "--dry-run"), ("reproduce", "--dry-run"), ("sweep", "--dry-run"), ("inspect", "--compare", "4x4")),
    *(("bench", "--depths", "57"), ("plot", "nowhere"), ("export", "nowhere"), ("probe", "landscape", "nowhere")),
]
WORDS = [
    *("--depth", "--plain", "--residual", "--recipe", "--seed", "--device", "--quiet", "--verbose", "--output", "-o"),
    *(
        "--format",
        "--seeds",
        "--limit",
        "--fresh",
        "--dry-run",
        "--",
        "-x",
        "--depth=20",
        "--json",
        "quick",
        "figure1",
    ),
    *(
        "56",
        "model=residual",
        "model.depth=56",
        "seed=1",
        "seed=1,2",
        "optim.lr=0.2",
        "model.depth=57",
        "recipe=smoke",
    ),
]


@pytest.mark.timeout(170)
@DRAWN
@given(start=st.sampled_from(BEGINNINGS), rest=st.lists(st.one_of(st.sampled_from(WORDS), values), max_size=5))
def test_hostile_words_in_any_order_are_taken_or_refused_in_one_line(start: tuple[str, ...], rest: list[str]) -> None:
    outcome = answered(*start, *rest)
    if outcome.code:
        check_refusal((*start, *rest), outcome)


#: Commands that read a folder of records.
READERS = [
    *(("plot",), ("verify",), ("report",), ("export",), ("evaluate",), ("runs",), ("runs", "--mean")),
    *(
        ("export", "--weights"),
        ("probe", "responses"),
        ("probe", "gradients"),
        ("probe", "kinds"),
        ("probe", "landscape"),
    ),
    ("probe", "construct", "--depth", "14"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", ["pipes", "settings", "."])
@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_pipes_and_sockets_among_records_keep_no_command_waiting(
    words: tuple[str, ...], run: str, hostile_folder: Path
) -> None:
    path = hostile_folder / run / "plain-8" / "seed-0" if run != "." else hostile_folder
    outcome = answered(*words, str(path))
    assert "Traceback" not in outcome.err
    assert "unexpected" not in outcome.err
    assert outcome.err.count("\n") <= LINES
    assert outcome.code in (0, 1, 2, 4), outcome
    assert outcome.code not in (1, 2) or outcome.err.splitlines()[-1].startswith("degrade: ")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl", "config.yaml", "summary.json.tmp"])
def test_training_does_not_wait_for_a_pipe_in_its_record(name: str, tmp_path: Path) -> None:
    small = ["data.train_limit=20", "data.test_limit=20", "recipe.iterations=2", "recipe.milestones=[1]"]
    experiment = compose([*SMALL, *small, f"output={tmp_path}"])
    run_directory(experiment).mkdir(parents=True)
    os.mkfifo(run_directory(experiment) / name)
    outcome = answered("train", *small_but(*small, f"output={tmp_path}", "eval.every=1"))
    assert outcome.code == 1
    assert f"{name} is not a regular file" in outcome.err
