import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from degrade.config import schema
from degrade.runs import RunRecord
from tests.conftest import SMALL, Cli, Trained
from tests.records import finished

BAD_INPUTS = [
    # commands and options
    ["trian"],
    ["train", "--dept", "56"],
    ["train", "--depth"],
    ["train", "--depth", "deep"],
    ["train", "--depth", "57"],
    ["train", "--depth", "0"],
    ["train", "--depth", "-20"],
    ["train", "--seed", "-1"],
    ["train", "--seed", "1.5"],
    ["train", "--recipe", "papr"],
    ["train", "--recipe", ""],
    ["train", "--device", "gpu"],
    ["train", "--device", "cuda:99"],
    ["train", "--device", "cuda:01"],
    ["train", "--device", "cuda:99999999999"],
    ["train", "model.depth=5\n7"],
    ["train", "-x"],
    ["plot", "--style", "figure7"],
    ["plot", "--band", "iqr"],
    ["reproduce", "--band", "sd"],
    ["reproduce", "--format", "tex"],
    ["plot", "--format", "tex"],
    ["runs", "--format", "json"],
    ["verify"],
    ["verify", "nowhere"],
    ["verify", "empty"],
    ["verify", "file"],
    ["verify", "--jsn"],
    ["plot", "--output", "figure.jpg"],
    ["plot", "--output", "figure"],
    ["reproduce", "figure2"],
    ["reproduce", "figure1", "figure6"],
    ["reproduce", "--seeds", "0"],
    ["reproduce", "--seeds", "many"],
    ["reproduce", "--recipe", "nightly"],
    ["reproduce", "--within", "soon"],
    ["reproduce", "--output", "figure.gif"],
    ["reproduce", "model.depth=56"],
    ["reproduce", "seed=3"],
    ["data", "fetsh"],
    ["bench", "--depths", "20,57"],
    ["bench", "--depths", "deep"],
    ["bench", "--rounds", "0"],
    ["bench", "--device", "cuda:99"],
    # overrides
    ["train", "56"],
    ["train", "=5"],
    ["train", "model.dpth=56"],
    ["train", "model=plane"],
    ["train", "model={a: 1}"],
    ["train", "model.depth="],
    ["train", "model.depth=null"],
    ["train", "model.depth=20.5"],
    ["train", "model.depth=[20]"],
    ["train", "model.family=Plain"],
    ["train", "model.shortcut=D"],
    ["train", "model.norm=layr"],
    ["train", "data.sources=npm"],
    ["train", "log.to=mlflow"],
    ["train", "model.init=zeros"],
    ["train", "model.bn_momentum=2"],
    ["train", "model.bn_epsilon=0"],
    ["train", "model.classes=1"],
    ["train", "optim.lr=-0.1"],
    ["train", "optim.lr=nan"],
    ["train", "optim.lr=fast"],
    ["train", "optim.momentum=1"],
    ["train", "optim.weight_decay=-1"],
    ["train", "optim.nesterov=perhaps"],
    ["train", "recipe.iterations=0"],
    ["train", "recipe.milestones=[5,3]"],
    ["train", "recipe.milestones=5"],
    ["train", "recipe.batch_size=0"],
    ["train", "recipe.warmup=maybe"],
    ["train", "recipe.warmup_error=80"],
    ["train", "eval.every=0"],
    ["train", "eval=5"],
    ["train", "runtime.threads=0"],
    ["train", "runtime.precision=fp16"],
    ["train", "runtime.engine=warp"],
    ["train", "data.split=40k"],
    ["train", "data.mean=imagenet"],
    ["train", "data.train_limit=0"],
    ["train", "data=cifar99"],
    ["train", "data=folder"],
    ["train", "data=folder", "data.root=nowhere"],
    ["train", "seed=1,2"],
    ["train", "seed=99999999999999999999999"],
    ["train", "seed=${nothing}"],
    ["train", "name=../up"],
    ["train", "name=a/b"],
    ["train", "output="],
    ["train", "+new.key=1"],
    ["train", "~seed"],
    ["train", "a'b=3"],
    ["train", "optim.lr={"],
    ["train", "experiment=figure1"],
    ["train", "hydra.verbose=true"],
    ["train", "launcher.jobs=1"],
    ["story", "launcher=slurm"],
    ["story", "name=mine"],
    ["bench", "--batch-sizes", "many"],
    ["inspect", "--channels", "128"],
    ["export", "--weights", "plain-20-short", "--output", "network.csv"],
    ["watch", "--terminal", "--open"],
    ["probe", "construct", "nowhere", "--depth", "56", "--fresh"],
    # paths and files
    ["train", "--config", "nowhere.yaml"],
    ["train", "--config", "."],
    ["train", "--config", "binary.yaml"],
    ["train", "--config", "broken.yaml"],
    ["train", "--config", "list.yaml"],
    ["train", "--config", "empty.yaml", "recipe=paper"],
    ["train", "--config", "empty.yaml", "--recipe", "paper"],
    ["train", *SMALL, "output=file"],
    ["plot"],
    ["plot", "nowhere"],
    ["plot", "empty"],
    ["runs"],
    ["runs", "nowhere"],
    ["evaluate"],
    ["evaluate", "nowhere"],
    ["evaluate", "empty"],
    ["train", "--config", "/dev/null"],
    ["data", "fetch", "--root", "file"],
    ["data", "info", "--root", "damaged"],
    ["train", ""],
    ["train", *SMALL, f"output={'x' * 5000}"],
    ["plot", "file"],
    ["evaluate", "file"],
]


@pytest.fixture
def files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged" / "cifar10-prepared").mkdir(parents=True)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: {")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").write_text("{}\n")


@pytest.mark.parametrize("arguments", BAD_INPUTS, ids=" ".join)
@pytest.mark.usefixtures("files")
def test_bad_input_gives_exit_2_and_one_line(arguments: list[str], cli: Cli) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("degrade: ")
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) > 20
    assert "Traceback" not in outcome.err


def test_errors_name_the_value_and_the_mend(cli: Cli) -> None:
    assert "nearest: 56 or 62" in cli("train", "--depth", "57").err
    assert "did you mean model.depth" in cli("train", "model.dpth=56").err
    assert "did you mean quick" in cli("train", "--recipe", "quik").err
    assert "degrade reproduce figure1" in cli("train", "experiment=figure1").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--depth", "x"], "--depth x: must be a whole number, such as 20, of at most 19 digits"),
        (["bench", "--rounds", "-3"], "--rounds -3: must be at least 1"),
        (["bench", "--seconds=inf"], "--seconds=inf: must be at most 3600"),
        (["bench", "--depths", "\uff12\uff10"], "--depths \uff12\uff10: write whole numbers, such as 20,56"),
        (["train", "--depth"], "--depth: needs a value; `degrade train --help` shows how it is written"),
        (["train", "--plain=3"], "--plain: takes no value; `degrade train --help` shows how it is written"),
        (["train", "--nope=3"], "--nope=3: no such option; `degrade train --help` lists the options"),
        (["train", "--dept", "8"], "--dept: no such option; did you mean --depth?"),
        (["runs", "a", "b"], "b: more arguments than the command takes; `degrade runs --help` lists them"),
        (["probe", "construct"], "RUN is missing; `degrade probe construct --help` shows how it is written"),
        (["zzz"], "No such command 'zzz'; `degrade --help` lists the commands"),
        (["train", "name=\udc80"], "name=\\udc80: holds bytes that are not UTF-8 text; write it in UTF-8"),
        (["train", "optim.lr=1e999"], "optim.lr=1e999: must be a finite number above 0"),
        (
            ["train", "recipe=" + 100 * "x"],
            f"recipe={39 * 'x'}…{20 * 'x'}: choose one of paper, quick, short, smoke, wall",
        ),
        (
            ["train", "seed=" + 5000 * "9"],
            f"seed={39 * '9'}…{20 * '9'}: cannot be read as a number; write a shorter one",
        ),
        (
            ["train", "optim.lr=1" + 999 * "0"],
            f"optim.lr=1{38 * '0'}…{20 * '0'}: the number is too large; write a smaller one",
        ),
    ],
)
def test_a_refusal_repeats_the_value_and_names_the_mend(arguments: list[str], message: str, cli: Cli) -> None:
    assert cli(*arguments) == (2, "", f"degrade: {message}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--plain", "--residual"],
        ["train", "--depth", "8", "--depth=14"],
        ["train", "--depth", "20", "model.depth=56"],
        ["train", "--recipe", "quick", "recipe=short"],
        ["train", "--seed", "1", "seed=2"],
        ["train", "--device", "cpu", "runtime.device=cuda"],
        ["train", "--precision", "fp32", "runtime.precision=bf16"],
        ["train", "--plain", "model=residual"],
        ["train", "--residual", "model.family=plain"],
        ["train", "seed=1", "seed=2"],
        ["reproduce", "--recipe", "quick", "recipe=short"],
        ["reproduce", "optim.lr=0.1", "optim.lr=0.2"],
        ["reproduce", "--within", "20m", "--recipe", "quick"],
        ["reproduce", "--within", "20m", "recipe=quick"],
        ["sweep", "seed=0,1", "seed=2,3"],
        ["sweep", "launcher=local", "launcher=slurm"],
        ["reproduce", "launcher=local", "launcher=slurm"],
        ["inspect", "--depth", "20", "model.depth=56"],
        ["inspect", "--compare", "3x3", "model.depth=56"],
        ["data", "fetch", "--root", "here", "data.root=there"],
        ["data", "info", "data.root=here", "data.root=there"],
        ["probe", "gradients", "--device", "cpu", "runtime.device=cuda"],
    ],
    ids=" ".join,
)
def test_conflicting_words_are_refused_by_naming_both(arguments: list[str], cli: Cli) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    first = next(k for k, word in enumerate(arguments) if word.startswith("--") or "=" in word)
    assert outcome.err.startswith(f"degrade: {' '.join(arguments[first:])}: ")
    assert "leave one of them out" in outcome.err


def test_the_same_value_twice_is_harmless(cli: Cli) -> None:
    words = [
        "--depth",
        "8",
        "--depth",
        "8",
        "model.depth=8",
        "seed=1",
        "seed='1'",
        "--plain",
        "--plain",
        "model=plain",
    ]
    assert "outputs/paper/plain-8/seed-1" in cli("train", "--dry-run", *words).out
    assert "2 cells" in cli("sweep", "--dry-run", "seed=0,1", "seed=0,1").out


def test_a_home_directory_needs_no_quotes(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"# run directory: {tmp_path}/runs/paper/" in cli("train", "--dry-run", "output=~/runs").out
    assert f"{tmp_path}/a/paper" in cli("sweep", "--dry-run", "output=~/a,~/b").out


def test_runs_cuts_names_to_the_terminal_and_never_in_a_pipe(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "a-name-that-is-longer-than-any-line-of-a-table-should-be-and-says-so-at-length"
    settings = [*SMALL, f"name={name}", "recipe.iterations=2", "recipe.milestones=[1]", "eval.every=1"]
    assert cli("train", *settings).code == 0
    full = f"{name}/plain-8,data=synthetic,data.test_limit=40,data.train_limit=90,recipe.iterations=2"
    assert full in cli("runs").out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    widths = [len(line) for line in cli("runs").out.splitlines()]
    assert 80 < max(widths) <= 100


def test_a_group_of_commands_alone_answers_with_its_help(cli: Cli) -> None:
    for words in (["data"], ["probe"]):
        outcome = cli(*words)
        assert (outcome.code, outcome.err) == (0, "")
        assert "Usage" in outcome.out


def test_debug_shows_the_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEGRADE_DEBUG", "1")
    outcome = cli("train", "--depth", "57")
    assert outcome.code == 2
    assert "Traceback" in outcome.err


def test_unexpected_errors_are_one_line_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("degrade.config.network_matrix", fail)
    outcome = cli("reproduce")
    assert outcome.code == 1
    assert outcome.err == "degrade: unexpected KeyError: 'surprise' (DEGRADE_DEBUG=1 shows more)\n"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["reproduce", "-h"], ["data", "--help"], []])
def test_help_teaches(arguments: list[str], cli: Cli) -> None:
    outcome = cli(*arguments)
    assert "Usage" in outcome.out + outcome.err
    if "train" in arguments:
        assert "degrade train --depth 56 --plain" in outcome.out


def test_dry_run_prints_settings_and_directory_and_trains_nothing(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", "--depth", "56", "--plain", "optim.lr=0.05", "--dry-run")
    assert outcome.code == 0
    assert "  depth: 56\n" in outcome.out
    assert "# run directory: outputs/paper/plain-56,optim.lr=0.05/seed-0" in outcome.out
    assert list(tmp_path.iterdir()) == []
    assert cli("reproduce", "figure6", "--dry-run", "--seeds", "2").out.count("# run directory") == 18


def test_options_are_sugar_for_overrides(cli: Cli) -> None:
    options = cli(
        *["train", "--depth", "56", "--residual", "--recipe", "quick", "--seed", "3", "--device", "cpu"],
        *["--precision", "fp32", "--dry-run"],
    )
    words = ["model=residual", "model.depth=56", "recipe=quick", "seed=3", "runtime.device=cpu"]
    words += ["runtime.precision=fp32"]
    assert options.out == cli("train", *words, "--dry-run").out
    assert "depth: 56" in cli("train", "--depth", "56", "model.depth=56", "--dry-run").out


def test_from_training_to_figure_on_synthetic_data(cli: Cli, tmp_path: Path) -> None:
    small = [word for word in SMALL if "depth" not in word and "recipe" not in word]
    outcome = cli("train", "--depth", "8", "--plain", "--recipe", "smoke", *small)
    assert outcome.code == 0
    assert "synthetic" in outcome.out
    folder = "outputs/smoke/plain-8,data=synthetic,data.test_limit=40,data.train_limit=90/seed-0"
    assert f"record: {folder}" in outcome.out
    assert "next:   degrade plot outputs/smoke" in outcome.out
    assert "already complete, skipped" in cli("train", "--depth", "8", "--recipe", "smoke", *small).out
    assert cli("train", "--depth", "8", "--residual", "--recipe", "smoke", *small).code == 0

    assert cli("plot").code == 0
    assert (tmp_path / "outputs/smoke/figure.png").stat().st_size > 10_000
    assert cli("report").out == "page: outputs/smoke/report.html\n"
    assert "SYNTHETIC DATA" in (tmp_path / "outputs/smoke/report.html").read_text()
    for name in ("figure.svg", "figure.pdf"):
        assert cli("plot", "outputs/smoke", "--style", "figure1", "--output", name).code == 0
        assert (tmp_path / name).exists()

    listed = cli("runs")
    assert listed.code == 0
    assert listed.out.count("complete") == 2
    assert listed.out.count("(synthetic)") == 2

    evaluated = cli("evaluate", folder)
    summary = RunRecord(tmp_path / folder).summary
    assert evaluated.out.startswith(f"{folder}, iteration 24 (synthetic data)\n")
    assert f"test error             {summary['test_error']:.2%}" in evaluated.out
    assert f"training error, clean  {summary['train_error_clean']:.2%}" in evaluated.out
    assert "pattern 9" in evaluated.out
    assert "holds 2 runs" in cli("evaluate", "outputs").err

    again = cli("train", "--config", f"{folder}/config.yaml", "name=again")
    assert again.code == 0
    metrics = [RunRecord(tmp_path / f).rows() for f in (folder, folder.replace("/smoke/", "/again/"))]
    assert [r["test_error"] for r in metrics[0]] == [r["test_error"] for r in metrics[1]]


def test_evaluate_measures_by_either_statistics_augmented_or_not(cli: Cli, trained: Trained) -> None:
    record = trained()
    run, summary = str(record.path), record.summary
    found = {}
    for words in ([], ["--statistics", "batch"], ["--augmented"], ["--statistics", "batch", "--augmented"]):
        outcome = cli("evaluate", run, *words)
        assert outcome.code == 0
        name, percent = outcome.out.splitlines()[1].split("  ")
        found[name] = float(percent.removesuffix("%"))
        test = outcome.out.splitlines()[2].split("  ")[0]
        assert test == ("test error, batch-statistics" if "batch" in words else "test error")
        said = "each batch's own statistics, over shuffled batches of 16" if "batch" in words else "its running"
        assert said in outcome.out
        assert ("cropped and flipped" if "--augmented" in words else "not augmented") in outcome.out
    assert list(found) == [
        "training error, clean",
        "training error, batch-statistics",
        "training error, augmented",
        "training error, batch-statistics, augmented",
    ]
    assert found["training error, clean"] == pytest.approx(100 * summary["train_error_clean"], abs=0.005)
    assert found["training error, batch-statistics"] == pytest.approx(100 * summary["train_error_batch"], abs=0.005)
    assert len(set(found.values())) > 2  # of so few images two may coincide
    refused = cli("evaluate", run, "--statistics", "bath")
    assert (refused.code, refused.err) == (2, "degrade: --statistics bath: must be one of 'running', 'batch'\n")


def test_without_batch_norm_evaluate_gives_the_same_by_either_statistics(cli: Cli, trained: Trained) -> None:
    run = str(trained("model.norm=none").path)
    running, batch = (cli("evaluate", run, "--statistics", word).out for word in ("running", "batch"))
    assert "the network has no batch norm" in batch
    assert [line.split()[-1] for line in running.splitlines()[1:3]] == [
        line.split()[-1] for line in batch.splitlines()[1:3]
    ]


def test_reproduce_ends_with_figure_table_and_exit_code(cli: Cli, tmp_path: Path) -> None:
    arguments = [
        "reproduce",
        "figure1",
        "--recipe",
        "smoke",
        "data=synthetic",
        "data.train_limit=40",
        "data.test_limit=20",
    ]
    outcome = cli(*arguments, "recipe.iterations=4", "eval.every=2", "--output", "f.svg")
    assert outcome.code == 0
    assert (tmp_path / "f.svg").exists()
    assert "page: report.html" in outcome.out  # beside the figure
    assert "SYNTHETIC DATA" in (tmp_path / "report.html").read_text()
    table = outcome.out[outcome.out.index("network ") :]
    assert "plain-20" in table
    assert "plain-56" in table
    assert "SYNTHETIC" in outcome.out
    text = " ".join(outcome.out.split())
    assert re.search(r"verdict: too early \(plain-.* SYNTHETIC data, no residual networks to compare", text)
    as_csv = cli(*arguments, "recipe.iterations=4", "eval.every=2", "--format", "csv")
    assert [line.partition(",")[0] for line in as_csv.out.splitlines()] == ["network", "plain-20", "plain-56"]
    assert "verdict: " in as_csv.err
    assert "2 of 2 finished already, skipped" in as_csv.err
    assert as_csv.code == 0


def test_reproduce_says_once_that_there_are_no_images(cli: Cli, tmp_path: Path) -> None:
    words = ["reproduce", "--recipe", "quick", "data=folder", "data.root=nowhere"]
    outcome = cli(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("degrade: ") == outcome.err.count("\n") == 1
    assert "nowhere" in outcome.err
    assert list(tmp_path.iterdir()) == []
    assert cli(*words, "--dry-run").code == 0


def test_a_diverged_network_gives_exit_1_and_is_still_plotted(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("train", *SMALL, "optim.lr=1e12", "model.norm=none", "recipe.iterations=24", "eval.every=6")
    assert outcome.code == 1
    assert "diverged" in outcome.out
    run = str(next((tmp_path / "outputs").rglob("seed-0")))
    told = cli("evaluate", run)
    assert told.code == 0
    assert told.out.startswith(f"{run}, iteration 6 (diverged at iteration 6, synthetic data)\n")
    assert cli("plot").code == 0
    assert (tmp_path / "outputs/smoke/figure.png").exists()


def test_a_damaged_record_does_not_stop_the_others_from_being_drawn(cli: Cli, trained: Trained) -> None:
    trained()
    damaged = trained("seed=1").path
    (damaged / "config.yaml").write_text("[broken")
    (damaged / "summary.json").write_text('{"status": 3, "test_error": "low", "iteration": "x", "iterations": 4}')
    outcome = cli("plot")
    assert outcome.code == 0
    assert outcome.err.startswith("left out: ")
    assert cli("runs").code == 0


def test_data_info_says_where_and_what(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("data", "info", "--root", "empty-place")
    assert outcome.code == 0
    assert "not there yet" in outcome.out
    assert "a local copy in empty-place, the original site, the npm package" in outcome.out
    assert outcome.out.endswith("a local copy in empty-place, the original site, tried in turn\n")
    mirror = "the mirror http://127.0.0.1/a/"
    told = cli("data", "info", "--root", "empty-place", "data.sources=[npm]").out
    assert "CIFAR-100: not there, and none of npm has it; data.sources names others" in told
    told = cli("data", "info", "--root", "empty-place", "data.sources=[mirror]", "data.url=http://127.0.0.1/a/").out
    assert f"from:     {mirror}cifar-10-python.tar.gz, tried in turn\n" in told


def test_without_torch_plot_runs_and_help_answer(tmp_path: Path) -> None:
    finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    code = """if True:
        import sys
        sys.modules["torch"] = None  # so that importing it raises
        from degrade.cli import main
        sys.exit(any([main(words) for words in (["--help"], ["runs"], ["plot"], ["train", "--dry-run"])]))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "outputs/paper/figure.png").exists()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m degrade train --dry-run | true"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    bash = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(bash, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_odd_but_valid_input_is_no_error(cli: Cli, tmp_path: Path) -> None:
    assert cli("data", "info", "--root", "~nosuch-user/x").code == 0
    finished(tmp_path / "outputs", "plain-20", 0, 0.1, 0.2)
    assert cli("plot", "--title", "$x^$", "--output", "f.png").code == 0


def test_settings_are_listed_with_meaning_default_and_choices(cli: Cli) -> None:
    every = cli("settings").out
    assert all(f"{key}=" in every for key in schema.settings())
    assert max(map(len, every.splitlines())) <= 80
    warm = cli("settings", "recipe.warmup").out
    assert warm.startswith("recipe.warmup=auto\n")
    assert "Choices: auto, on, off, linear, quadratic." in " ".join(warm.split())
    assert "optim.lr" not in warm
    wrong = cli("settings", "optm")
    assert wrong.code == 2
    assert wrong.err == "degrade: optm: no setting begins so; did you mean optim or optim.lr or optim.name?\n"


def test_without_a_folder_commands_leave_the_runs_alone_that_come_with_degrade(cli: Cli, tmp_path: Path) -> None:
    reference = finished(tmp_path / "outputs" / "reference" / "quick", "plain-20", 0, 0.02, 0.1)
    for command in (["plot"], ["runs"], ["verify"], ["watch", "--terminal"]):
        refused = cli(*command)
        assert (refused.code, refused.err.count("outputs holds no run of yours yet")) == (2, 1), command
    assert "plain-20" in cli("runs", str(reference.path.parents[1])).out
    finished(tmp_path / "outputs" / "mine", "plain-56", 0, 0.02, 0.1)
    listed = cli("runs").out
    assert "plain-56" in listed
    assert "plain-20" not in listed
