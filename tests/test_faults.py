"""Trouble with the disk, damaged files, a folder that is moved, two writers: nothing is lost, and all is named."""

import contextlib
import errno
import io
import json
import os
import random
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from degrade.cli import main
from degrade.config import compose
from degrade.errors import RunFileError
from degrade.files import append_line, copy_aside, replace_text, set_aside
from degrade.probes.probe import read, write
from degrade.runs import RunRecord, run, run_directory, worker
from degrade.runs.checked import sealed_line
from degrade.training import checkpoint, engine
from tests.conftest import SMALL, Cli, Outcome
from tests.records import finished
from tests.test_runs import equal, interrupted_copy, rows, weights

FILES = ("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "checkpoint.pt")
SETTINGS = [*SMALL, "data.pixels=8", "log.every=4", "checkpoint.every=4", "output=outputs"]
MUTATIONS = int(os.environ.get("DEGRADE_TEST_MUTATIONS", "3"))  # of each file


@contextlib.contextmanager
def trouble(path: Path, number: int) -> Iterator[None]:
    """The system's answer to opening a file, whoever opens it."""
    opened = io.open

    def refuse(file: Any, *arguments: Any, **more: Any) -> Any:
        if not isinstance(file, int) and Path(os.fspath(file)).resolve() == path.resolve():
            raise OSError(number, os.strerror(number), os.fspath(file))
        return opened(file, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("io.open", refuse)
        patch.setattr("builtins.open", refuse)
        yield


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a record but its log and lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("train.log", ".lock")
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of a run that is finished and of one that is interrupted."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run(compose(SETTINGS))
        interrupted_copy(lambda *more: compose([*SETTINGS, *more]), "name=parts")
    return root


@pytest.fixture
def here(kept: Path, tmp_path: Path) -> Path:
    """A copy of them to do harm to."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


def folder_of(root: Path, *more: str) -> Path:
    return root / run_directory(compose([*SETTINGS, *more]))


# Trouble with the disk


@pytest.mark.parametrize(
    ("name", "number"),
    [*((name, errno.EIO) for name in FILES), ("checkpoint.pt", errno.EACCES), ("checkpoint.pt", errno.ESTALE)],
)
def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_touched(
    name: str, number: int, here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degrade.analysis.figures.save", lambda *_: None)  # drawn all the same
    folder = folder_of(here, "name=parts")
    before = content(folder)
    for command in (
        ["train", *SETTINGS, "name=parts"],
        ["runs"],
        ["plot", "outputs/parts"],
        ["evaluate", str(folder)],
    ):
        with trouble(folder / name, number):
            outcome = cli(*command)
        read = name in {"runs": FILES[:2] + FILES[3:4], "plot": FILES[:4]}.get(command[0], FILES)
        assert outcome.code == (1 if read else 0), (command, outcome)
        if read:
            assert re.fullmatch(rf"degrade: .*{re.escape(name)}.* \({os.strerror(number)}\).*\n", outcome.err), (
                outcome
            )
        assert content(folder) == before, command
    # Once the disk is well, the same command goes on, to the same result.
    whole = RunRecord(folder_of(here))
    outcome = cli("train", *SETTINGS, "name=parts")
    assert (outcome.code, outcome.err) == (0, "")
    assert "going on from iteration 13" in outcome.out
    assert rows(RunRecord(folder)) == rows(whole)
    assert equal(weights(RunRecord(folder)), weights(whole))


def test_a_matrix_goes_on_past_a_run_whose_checkpoint_cannot_be_read(here: Path, cli: Cli) -> None:
    parts, other = (compose([*SETTINGS, *more]) for more in (["name=parts"], ["name=other"]))
    with trouble(folder_of(here, "name=parts") / "checkpoint.pt", errno.EIO):
        assert [worker._train(asdict(experiment)) for experiment in (parts, other)] == [None, None]
    statuses = [RunRecord(run_directory(experiment)).status for experiment in (parts, other)]
    assert statuses == ["interrupted", "complete"]


def test_the_previous_checkpoint_is_no_way_around_one_that_cannot_be_read(here: Path, cli: Cli) -> None:
    folder = folder_of(here)
    before = content(folder)
    with trouble(folder / "checkpoint.pt", errno.EIO), pytest.raises(RunFileError, match=r"checkpoint\.pt .*output"):
        checkpoint.restore(folder, torch.device("cpu"), lambda _: None, complain=print)
    for command in (
        ["evaluate", str(folder)],
        ["export", "--weights", str(folder)],
        ["probe", "responses", str(folder)],
    ):
        with trouble(folder / "checkpoint.pt", errno.EIO):
            outcome = cli(*command)
        assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome
    assert content(folder) == before


def test_a_lack_of_memory_is_no_damage(here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    folder = folder_of(here, "name=parts")
    monkeypatch.setattr(torch, "load", full)
    assert "CUDA out of memory" in cli("train", *SETTINGS, "name=parts").err
    assert {"checkpoint.pt", "checkpoint.prev.pt"} <= set(content(folder))
    assert len(RunRecord(folder).rows()) == 3


def test_a_folder_that_cannot_be_listed_is_no_folder_without_runs(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def fail(path: str) -> Any:
        if str(path).endswith("parts"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return scan(path)

    monkeypatch.setattr("os.scandir", fail)
    outcome = cli("runs")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "outputs/parts cannot be read just now" in outcome.err


# Writing


@pytest.mark.parametrize(
    ("call", "after"),
    [
        *(("os.fsync", after) for after in (3, 6, 11, 16)),  # settings, then a checkpoint, then later ones
        *(("pathlib.Path.replace", after) for after in (3, 7, 11)),
    ],
)
def test_a_full_disk_ends_with_1_and_the_last_checkpoint_stays(
    call: str, after: int, here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(here, "name=full")
    module, _, function = call.rpartition(".")
    owner = os if module == "os" else Path
    original, calls = getattr(owner, function), 0

    def full(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, full)
        outcome = cli("train", *SETTINGS, "name=full")
    assert outcome.code == 1
    assert re.fullmatch(r"degrade: outputs/full/.* failed at iteration \d+: No space left on device\n", outcome.err)
    assert not list(folder.glob("*.tmp"))
    for path in checkpoint.candidates(folder):
        checkpoint.load(path, torch.device("cpu"))
    outcome = cli("train", *SETTINGS, "name=full")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    assert rows(RunRecord(folder)) == rows(RunRecord(folder_of(here)))


def test_a_file_that_grows_too_large_leaves_the_checkpoint_before(here: Path, cli: Cli) -> None:
    """The system's own refusal, in the midst of a checkpoint."""
    folder = folder_of(here, "name=parts")
    before = checkpoint.load(folder / "checkpoint.pt", torch.device("cpu"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        outcome = cli("train", *SETTINGS, "name=parts")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome
    assert "failed at iteration 16" in outcome.err
    assert checkpoint.load(folder / "checkpoint.pt", torch.device("cpu"))["iteration"] == before["iteration"]
    assert not list(folder.glob("*.tmp"))
    assert cli("train", *SETTINGS, "name=parts").code == 0
    assert rows(RunRecord(folder)) == rows(RunRecord(folder_of(here)))


def test_a_line_that_does_not_fit_leaves_no_part_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    append_line(path, "whole")

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="quota"):
            append_line(path, "part")
        with pytest.raises(OSError, match="quota"):
            replace_text(path, "other")
    append_line(path, "next")
    assert path.read_text() == "whole\nnext\n"
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_read_only_folder_is_one_line_and_shows_what_it_holds(
    number: int, here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.open

    def read_only(path: Any, flags: int, *more: Any, **by_name: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and "outputs" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return original(path, flags, *more, **by_name)

    monkeypatch.setattr(os, "open", read_only)
    before = content(here)
    outcome = cli("train", *SETTINGS, "name=parts")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome
    assert f"cannot be written ({os.strerror(number)}); set output=DIR" in outcome.err
    assert cli("train", *SETTINGS).code == 0  # finished: there is nothing to write
    assert cli("runs").code == 0
    assert content(here) == before


def trained_until(at: int, act: Callable[[], object], *more: str) -> None:
    """Train, doing something in the midst."""
    original, calls = engine.Engine.step, 0

    def step(self: engine.Engine, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        original(self, *arguments)
        if calls == at:
            act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.Engine, "step", step)
        run(compose([*SETTINGS, *more]))


def test_a_folder_moved_while_training_is_left_alone_and_goes_on_when_back(here: Path, cli: Cli) -> None:
    folder, away = folder_of(here, "name=moved"), here / "away"
    with pytest.raises(RunFileError, match="was moved or replaced while it was being written"):
        trained_until(14, lambda: shutil.move(folder, away), "name=moved")
    assert not folder.exists()
    assert checkpoint.load(away / "checkpoint.pt", torch.device("cpu"))["iteration"] == 12
    assert RunRecord(away).status == "interrupted"
    shutil.move(away, folder)
    assert cli("train", *SETTINGS, "name=moved").code == 0
    assert rows(RunRecord(folder)) == rows(RunRecord(folder_of(here)))


def test_a_run_begun_where_another_was_moved_away_from_is_not_written_by_both(here: Path, cli: Cli) -> None:
    folder = folder_of(here, "name=moved")

    def replace() -> None:
        shutil.move(folder, here / "away")
        shutil.copytree(folder_of(here), folder)

    whole = content(folder_of(here))
    with pytest.raises(RunFileError, match="was moved or replaced"):
        trained_until(6, replace, "name=moved")
    assert content(folder) == whole


def test_a_second_writer_is_refused_and_the_first_one_unharmed(here: Path, cli: Cli) -> None:
    outcomes: list[Outcome] = []
    trained_until(13, lambda: outcomes.append(cli("train", *SETTINGS, "name=two")), "name=two")
    trained_until(13, lambda: outcomes.append(cli("train", *SETTINGS, "name=two", "--fresh")), "name=two", "seed=1")
    assert (outcomes[0].code, outcomes[0].err.count("\n")) == (2, 1)
    assert "in use by another process" in outcomes[0].err
    assert rows(RunRecord(folder_of(here, "name=two"))) == rows(RunRecord(folder_of(here)))


# Damage


def test_a_finished_run_without_its_rows_is_not_skipped_without_a_word(here: Path, cli: Cli) -> None:
    folder = folder_of(here)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    for left, words in (
        ([], "6 of 6 rows are missing"),
        (lines[:-1], "1 of 6 rows are missing"),
        (lines[1:], "1 of 6 rows are missing"),
        ([*lines[:2], *lines[3:]], "1 of 6 rows are missing"),
        ([*lines[:5], lines[5].replace('"test_error": ', '"test_error": 0')], "1 of 6 lines cannot be read"),
    ):
        metrics.write_text("".join(left))
        outcome = cli("train", *SETTINGS)
        assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome
        assert f"metrics.jsonl: {words}" in outcome.err
        assert "only --fresh trains it again" in outcome.err
        assert "skipped" not in outcome.out
        assert f"metrics.jsonl: {words}" in cli("export", "outputs/smoke").err
    metrics.write_text("".join(lines))
    assert cli("train", *SETTINGS).code == 0


def test_rows_lost_before_a_session_are_named_ever_after(here: Path, cli: Cli) -> None:
    folder = folder_of(here, "name=parts")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([lines[0], *lines[2:]]))
    outcome = cli("train", *SETTINGS, "name=parts")
    assert outcome.code == 0
    assert "metrics.jsonl lacks at least 1 rows up to iteration 12" in outcome.out
    assert (folder / "metrics.jsonl.damaged").read_text() == "".join([lines[0], *lines[2:]])
    assert RunRecord(folder).sessions[1]["lost_rows"] == 1
    assert "metrics.jsonl: lost at least 1 rows before " in cli("plot", "outputs/parts").err
    assert cli("train", *SETTINGS, "name=parts").code == 0


def test_a_torn_last_line_as_a_kill_leaves_it_is_no_loss(here: Path, cli: Cli) -> None:
    folder = folder_of(here, "name=parts")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 16, "ep')
    assert cli("train", *SETTINGS, "name=parts").code == 0
    record = RunRecord(folder)
    assert rows(record) == rows(RunRecord(folder_of(here)))
    assert record.losses() == []
    assert not list(folder.glob("*.damaged*"))


@pytest.mark.parametrize("name", ["environment.json", "summary.json", "config.yaml"])
def test_a_damaged_file_is_kept_beside_what_replaces_it(name: str, here: Path, cli: Cli) -> None:
    folder = folder_of(here, "name=parts")
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace("1", "7", 1) if name != "config.yaml" else text + "# mine\n")
    before = content(folder)
    outcome = cli("train", *SETTINGS, "name=parts")
    assert outcome.code == 0
    assert f"{name}: " in outcome.out
    assert (folder / f"{name}.damaged").read_bytes() == before[name]
    assert RunRecord(folder).losses() == []
    assert rows(RunRecord(folder)) == rows(RunRecord(folder_of(here)))


def test_a_run_without_its_config_is_refused(here: Path, cli: Cli) -> None:
    folder = folder_of(here, "name=parts")
    (folder / "config.yaml").unlink()
    before = content(folder)
    outcome = cli("train", *SETTINGS, "name=parts")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "config.yaml is missing from a run" in outcome.err
    assert content(folder) == before


def test_names_of_what_is_set_aside_are_free_ones(tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / "file").write_text(text)
        assert copy_aside(tmp_path / "file").read_text() == text
    assert set_aside(tmp_path / "file").name == "file.damaged-3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.damaged", "file.damaged-2", "file.damaged-3"]


def test_a_record_of_an_earlier_version_reads_and_gets_checksums_when_it_goes_on(here: Path, cli: Cli) -> None:
    folder = folder_of(here, "name=parts")
    record = RunRecord(folder)
    expected = record.rows(), record.summary, record.environment
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in record.rows()))
    (folder / "summary.json").write_text(json.dumps(record.summary))
    (folder / "environment.json").write_text(json.dumps(record.environment))
    assert (record.rows(), record.summary, record.environment) == expected
    assert record.losses() == []
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(sealed_line({"iteration": 13}, 4) + "\n")
    assert record.measured().damaged == 3  # lines without checksums are damaged where others have them
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in expected[0]))
    assert cli("train", *SETTINGS, "name=parts").code == 0
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert rows(record) == rows(RunRecord(folder_of(here)))


ODD: list[Any] = [
    "x",
    "",
    7,
    -1,
    1e308,
    10**30,
    True,
    None,
    [],
    {},
    [1, "x"],
    {"a": {"b": [float("nan")]}},
    float("inf"),
]


@pytest.mark.parametrize("name", ["summary.json", "environment.json", "metrics.jsonl", "config.yaml"])
def test_values_of_a_wrong_type_in_old_records_are_named_and_no_traceback(
    name: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degrade.analysis.figures.save", lambda *_: None)  # drawn all the same
    made = finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    finished(tmp_path / "outputs", "plain-56", 0, 0.2, 0.3)
    path = made.path / name
    text = path.read_text()
    chance = random.Random(name)
    sessions = {"sessions": [{"started": 1, "iteration": 0, "device": "x"}]}
    for odd in chance.sample(ODD, min(2 * MUTATIONS, len(ODD))):
        if name == "config.yaml":
            key = chance.choice(["depth", "seed", "iterations", "milestones", "batch_size", "lr", "norm", "start"])
            path.write_text(re.sub(rf"(?m)^( *){key}:.*(\n *- \d+)*$", rf"\1{key}: {json.dumps(odd)}", text))
        elif name == "metrics.jsonl":
            head, last = text.splitlines()
            key = chance.choice([*json.loads(head)])
            path.write_text(head + "\n" + json.dumps(json.loads(last) | {key: odd}) + "\n")
        else:
            held = json.loads(text) | (sessions if name == "environment.json" else {})
            key = chance.choice([*held])
            path.write_text(json.dumps(held | {key: odd}))
        for command in (["runs"], ["plot"], ["verify"], ["export"], ["report"]):
            outcome = cli(*command)
            assert "unexpected" not in outcome.err, (command, key, odd, outcome.err)
            assert outcome.code in (0, 4), (command, key, odd, outcome.err)


@pytest.mark.parametrize(
    ("key", "odd", "words"),
    [
        ("status", 7, "status: 7 is no status (running, interrupted, diverged, failed, complete); left out"),
        ("iteration", "x", 'iteration: "x" is no whole number; left out'),
        ("test_error", 1.5, "test_error: 1.5 is no fraction of 1; left out"),
        ("train_error", float("inf"), "train_error: Infinity is no fraction of 1; left out"),
        ("seconds", 10**30, f"seconds: {10**30} is no finite number; left out"),
    ],
)
def test_a_wrong_value_of_an_old_summary_is_one_line(
    key: str, odd: Any, words: str, tmp_path: Path, cli: Cli
) -> None:
    made = finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    (made.path / "summary.json").write_text(
        json.dumps(json.loads((made.path / "summary.json").read_text()) | {key: odd})
    )
    outcome = cli("runs")
    assert outcome.code == 0
    assert outcome.err.endswith(f"summary.json: {words}\n")
    assert outcome.err.count("\n") == 1


def test_probes_numbers_are_whole_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "responses.csv"
    made: list[dict[str, Any]] = [
        {"layer": k, "name": f"conv{k}", "std": 0.1 * k, "iteration": 24} for k in range(1, 6)
    ]
    write(path, made)
    assert read(path) == made
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(300):
        path.write_bytes(mutated(whole, chance))
        assert read(path) == [] or numbers(read(path)) == numbers(made), path.read_text()
    path.write_bytes(
        re.sub(rb",crc32:[0-9a-f]{8}\n", b"\n", whole).replace(b",checksum", b"")
    )  # of an earlier version
    assert read(path) == made
    with trouble(path, errno.EIO), pytest.raises(RunFileError, match=r"responses\.csv cannot be read just now"):
        read(path)


def numbers(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.values())[:4] for row in found]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One random mutation."""
    lines = data.split(b"\n")
    place, line, other = chance.randrange(len(data)), chance.randrange(len(lines)), chance.randrange(len(lines))
    kind = chance.choice(["flip", "digit", "delete", "duplicate", "swap", "truncate", "value"])
    if kind == "flip":
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind in ("digit", "value"):
        pattern = rb"\d" if kind == "digit" else rb"(?<=[ :,])(-?\d+(\.\d+)?(e-?\d+)?|null|true|false)"
        found = chance.choice([*re.finditer(pattern, data)] or [re.match(b"", data)])
        assert found is not None
        new = (
            b"%d" % chance.randrange(10)
            if kind == "digit"
            else chance.choice([b"0", b"0.5", b'"x"', b"[]", b"1e999"])
        )
        return data[: found.start()] + new + data[found.end() :]
    if kind == "truncate":
        return data[:place]
    if kind == "swap":
        lines[line], lines[other] = lines[other], lines[line]
    else:
        lines[line : line + 1] = [] if kind == "delete" else [lines[line], lines[line]]
    return b"\n".join(lines)


def answers(capsys: pytest.CaptureFixture[str], folder: Path) -> Iterator[tuple[str, int, str, str]]:
    """Of each command that reads a record, then of the one that writes it: its name, code, answer and complaints."""
    commands = [
        ["runs"],
        ["plot", "--format", "csv"],
        ["verify"],
        ["export"],
        ["evaluate", str(folder), "--device", "cpu"],
    ]
    for words in [*commands, ["train", *SETTINGS]]:
        capsys.readouterr()
        code = main(words)
        yield words[0], code, *capsys.readouterr()


#: What `answers` are where nothing is damaged, once they were asked for.
_right: list[tuple[str, int, str, str]] = []


@pytest.mark.parametrize("name", FILES)
def test_a_random_mutation_never_becomes_another_answer_without_a_word(
    name: str, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("degrade.analysis.figures.save", lambda *_: None)  # drawn all the same
    monkeypatch.chdir(tmp_path)
    where = folder_of(Path())

    def fresh() -> None:
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
        shutil.copytree(kept / where, where)

    fresh()
    if not _right:
        _right.extend(answers(capsys, where))
    right = _right
    whole, expected = (where / name).read_bytes(), rows(RunRecord(where))
    assert [code for _, code, _, _ in right] == [0, 0, 4, 0, 0, 0]
    chance = random.Random(name)
    for number in range(MUTATIONS):
        fresh()
        bad = mutated(whole, chance)
        (where / name).write_bytes(bad)
        for (command, code, out, err), (_, good_code, good_out, good_err) in zip(
            answers(capsys, where), right, strict=True
        ):
            case = (number, command, out, err, bad if name != "checkpoint.pt" else b"")
            assert "unexpected" not in err + out, case
            assert "Traceback" not in err + out, case
            assert code in (0, 1, 2, 3, 4), case
            assert (code, out, err) == (good_code, good_out, good_err) or name in err + out, case
        named = name in out + err  # by train, the last
        assert named or bad == whole or rows(RunRecord(where)) == expected
