"""Choices from outside: the code of docs/howto/extend.md, and what goes wrong with such files."""

import hashlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from degrade.config import Experiment, ModelConfig, compose, load_config, register, registry
from degrade.config.compose import compose_cells
from degrade.config.identity import departures, family_settings, variant
from degrade.config.schema import settings
from degrade.errors import ConfigError
from degrade.models import build_model
from degrade.models.activation import ACTIVATIONS
from degrade.models.family import FAMILIES
from degrade.models.initial import INITS
from degrade.models.norm import NORMS, normalisation
from degrade.runs import find_records
from degrade.training.optimizers import OPTIMIZERS, optimizer
from degrade.training.schedule import SCHEDULES
from tests.conftest import Cli

PAGE = (Path(__file__).parents[1] / "docs" / "howto" / "extend.md").read_text()

#: What every command below is told besides, so that it takes seconds.
FEW = ["data.train_limit=90", "data.test_limit=40", "recipe.iterations=4", "runtime.precision=fp32"]

SCALE = """
from torch import nn
from degrade.config import register

@register("model.norm", "scale")
class Scale(nn.Module):
    def __init__(self, channels, config):
        super().__init__()

    def forward(self, x):
        return 0.5 * x
"""


@pytest.fixture(autouse=True)
def as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test registers is gone in the next."""
    monkeypatch.setattr(registry, "_added", {key: {} for key in registry.OPEN})
    monkeypatch.setattr(registry, "_files", {})
    registry.find.cache_clear()
    yield
    registry.find.cache_clear()


def forget() -> None:
    """Let this process know no more than a new one."""
    for own in registry._added.values():
        own.clear()
    registry._files.clear()
    registry.find.cache_clear()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_does_what_it_says(cli: Cli, tmp_path: Path) -> None:
    (code,) = blocks("python")
    (tmp_path / "dense.py").write_text(code)
    said = []
    for line in "".join(blocks("sh")).splitlines():
        forget()
        _, *words = shlex.split(line)
        done = cli(*words, *(FEW if words[0] in ("train", "sweep") else []))
        assert done.code == 0, (line, done)
        said.append(done.out)
    assert "dense-8: " in said[0]
    records = {record.path.parent.name.split(",")[0]: record for record in find_records([tmp_path / "outputs"])}
    assert {"dense-8", "plain-8"} == set(records)
    assert any("dense-8" in text for text in said[3:6])
    own = next(r for r in find_records([tmp_path / "outputs"]) if r.experiment.recipe.schedule == "sqrt")
    assert [row["lr"] for row in own.rows()][-1] == pytest.approx(0.05 * (1 - 3 / 4) ** 0.5)
    assert own.sessions[-1]["modules"] == own.experiment.modules
    assert own.experiment.modules[0].startswith(f"{tmp_path}/dense.py#")
    found = departures(own.experiment)
    for begin in ("network dense (paper plain or residual)", "norm instance (paper batch)", "schedule sqrt (paper"):
        assert any(departure.startswith(begin) for departure in found), found
    figure = (tmp_path / "outputs" / "smoke" / "figure.png").stat()
    assert figure.st_size > 10_000
    forget()
    judged = cli("verify", str(own.path))
    assert (judged.code, "a verdict needs plain networks of two depths" in judged.out) == (4, True)


def test_a_network_of_ones_own_is_judged_and_looked_into(cli: Cli, tmp_path: Path) -> None:
    """Each command is told nothing of the file, which the records name."""
    (code,) = blocks("python")
    code = code.replace("dense", "chain").replace("shortcuts = True", "shortcuts = False")
    (tmp_path / "chain.py").write_text(code)
    words = ["model=chain", "recipe=smoke", "data=synthetic", "checkpoint.snapshots=3", *FEW]
    for depth in ("4", "7"):
        forget()
        trained = cli("train", "--with", "chain.py", "--depth", depth, *words)
        assert trained.code == 0, trained
    names = ("chain-4", "chain-7")

    def looked(*command: str, code: int = 0) -> str:
        forget()
        done = cli(*command)
        assert done.code == code, (command, done)
        assert all(name in done.out for name in names), (command, done)
        return done.out

    looked("verify", "outputs/smoke", code=4)
    looked("probe", "landscape", "outputs/smoke", "--grid", "3", "--limit", "20")
    looked("probe", "landscape", "outputs/smoke", "--trajectory", "--grid", "3", "--limit", "20")
    for name in ("landscape", "trajectory"):
        assert (tmp_path / "outputs" / "smoke" / f"{name}.png").stat().st_size > 10_000
    forget()
    assert cli("report", "outputs/smoke", "--output", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert all(name in page for name in names)
    commands = page[page.index('id="commands"') :].partition("</section>")[0]
    assert re.findall("degrade train --config outputs/smoke/(chain-.)", commands) == list(names)
    assert "modules=" not in commands
    forget()
    refused = cli("probe", "construct", next(str(own.path) for own in find_records([tmp_path])), "--depth", "10")
    assert (refused.code, "only plain and residual networks are made deeper" in refused.err) == (2, True), refused


def test_a_changed_file_is_taken_only_by_name(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SCALE)
    words = ["train", "--with", "mine.py", "model.norm=scale", "recipe=smoke", "data=synthetic", "--depth", "8", *FEW]
    assert cli(*words).code == 0
    (record,) = find_records([tmp_path / "outputs"])
    forget()
    assert cli("evaluate", str(record.path)).code == 0
    forget()
    file.write_text(SCALE.replace("0.5", "0.25"))
    refused = cli("evaluate", str(record.path))
    assert refused.code == 2
    assert f"{file}: changed since the run was made; --with {file} takes it as it is" in refused.err
    forget()
    assert cli("evaluate", str(record.path), "--with=mine.py").code == 0
    forget()
    file.rename(tmp_path / "moved.py")
    gone = cli("probe", "responses", str(record.path), "--limit", "20")
    assert (gone.code, "the run was made with this file, which is gone" in gone.err) == (2, True)
    forget()
    assert cli("plot", str(record.path)).code == 0  # what reads settings and numbers alone does without it


def test_the_file_of_one_record_stands_for_no_other_record_s(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SCALE)
    now = hashlib.sha256(file.read_bytes()).hexdigest()
    before = f"{file}#{'0' * 64}"
    registry.load_recorded([f"{file}#{now}"])
    registry.load_recorded([f"{file}#{now}"])
    with pytest.raises(ConfigError, match="changed since the run was made"):
        registry.load_recorded([before])
    copy = tmp_path / "other" / "mine.py"
    copy.parent.mkdir()
    file.rename(copy)
    registry.load_recorded([f"{file}#{now}", f"{copy}#{now}"])  # the same code
    copy.write_text(SCALE.replace("0.5", "0.25"))
    with pytest.raises(ConfigError, match="the name is taken"):
        registry.load_recorded([f"{copy}#{hashlib.sha256(copy.read_bytes()).hexdigest()}"])
    copy.rename(file)
    file.write_text(SCALE)
    forget()
    registry.load_recorded([f"{file}#{now}"])
    registry.load(file)  # the user names it
    registry.load_recorded([before])
    assert registry.recorded() == [f"{file}#{now}"]


def test_a_run_that_goes_on_with_a_changed_file_says_so(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SCALE)
    words = ["train", "--with", "mine.py", "model.norm=scale", "recipe=smoke", "data=synthetic", "--depth", "8", *FEW]
    assert cli(*words).code == 0
    (record,) = find_records([tmp_path / "outputs"])
    record.summarise(**{**record.summary, "status": "interrupted"})
    forget()
    file.write_text(SCALE.replace("0.5", "0.25"))
    assert f"begun with another content of {file}" in cli(*words).out


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1\n", "it adds nothing; put @register(KEY, NAME) above what it is to add"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("def f(:\n", "SyntaxError: "),
        (SCALE.replace('"scale"', '"batch"'), "register('model.norm', 'batch'): the name is taken"),
        (
            SCALE.replace("model.norm", "model.depth"),
            "register('model.depth', 'scale'): choices are added to model.fam",
        ),
        (SCALE.replace("model.norm", "model.family"), "it lacks a method convolutions(), which probes ask"),
        (SCALE.replace('"scale"', '"a-b"'), "write a name of letters, digits and _"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_in_one_line(cli: Cli, tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    done = cli("train", "--with", "mine.py", "--dry-run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err
    assert compose(["model.norm=batch"]).modules == []
    assert registry.names("model.norm") == ()


def test_a_file_that_is_missing_is_named(cli: Cli) -> None:
    assert (
        "--with nothing.py: No such file or directory; name a Python file" in cli("runs", "--with", "nothing.py").err
    )
    assert "--with: needs a value" in cli("runs", "--with").err


def test_a_name_that_nobody_added_is_refused_with_the_nearest() -> None:
    register("model.norm", "instance")(lambda channels, _: nn.InstanceNorm2d(channels))
    with pytest.raises(ConfigError, match=r"model.norm=instanc: did you mean instance\?"):
        compose(["model.norm=instanc"])
    with pytest.raises(ConfigError, match=r"model=dens: .*--with FILE adds others"):
        compose(["model=dens"])
    with pytest.raises(ConfigError, match=r"model.norm=torch.nn.Nothing: .*; name an object as Python imports it"):
        compose(["model.norm=torch.nn.Nothing"])
    with pytest.raises(ConfigError, match=r"optim.name=math.pi: it cannot be called"):
        compose(["optim.name=math.pi"])
    with pytest.raises(ConfigError, match="modules=x: name the file by --with FILE"):
        compose(["modules=x"])


def test_what_python_imports_is_named_by_its_path(small: Callable[..., Experiment]) -> None:
    model = small("model.activation=torch.nn.functional.silu").model
    assert build_model(model).activate is torch.nn.functional.silu
    other = build_model(small("model=degrade.models.CifarNet", "model.depth=14").model)
    assert len(list(other.convolutions())) == 13


RMSPROP = "{_target_: torch.optim.RMSprop, alpha: 0.9}"


def test_a_call_as_hydra_writes_it_names_a_target_and_its_arguments(small: Callable[..., Experiment]) -> None:
    other = small("optim.name={alpha: 0.9, _target_: torch.optim.RMSprop}", "optim.lr=0.001")
    assert other.optim.name == RMSPROP == small(f"optim.name={RMSPROP}").optim.name
    made = optimizer(build_model(other.model), other.optim)
    assert (type(made), made.defaults["alpha"], made.defaults["lr"]) == (torch.optim.RMSprop, 0.9, 0.001)
    assert f"optimizer {RMSPROP} (paper sgd)" in departures(other)
    register("model.norm", "scaled")(lambda channels, config, by: by)
    config = small("model.norm={_target_: scaled, by: {_target_: torch.nn.PReLU, init: 0.5}}").model
    one, other_one = (normalisation(16, config) for _ in range(2))
    assert isinstance(one, nn.PReLU)
    assert one is not other_one  # layers and networks share no weights
    gelu = build_model(small("model.activation={_target_: torch.nn.functional.gelu, approximate: tanh}").model)
    assert torch.equal(gelu.activate(torch.ones(1)), torch.nn.functional.gelu(torch.ones(1), approximate="tanh"))
    network = small("model.family={_target_: degrade.models.CifarNet}", "model.depth=14")
    assert variant(network).startswith("degrade.models.CifarNet~")
    assert len(list(build_model(network.model).convolutions())) == 13
    cells = compose_cells([f"optim.name=sgd,{RMSPROP}"])
    assert [cell.optim.name for cell in cells] == ["sgd", RMSPROP]


def test_a_call_given_for_a_group_is_what_the_group_names(small: Callable[..., Experiment], tmp_path: Path) -> None:
    made = small(f"optim={RMSPROP}", "model={_target_: degrade.models.CifarNet}", "model.depth=14")
    assert (made.optim.name, made.model.family) == (RMSPROP, "{_target_: degrade.models.CifarNet}")
    assert [cell.optim.name for cell in compose_cells([f"optim=sgd,{RMSPROP}"])] == ["sgd", RMSPROP]
    with pytest.raises(ConfigError, match=r"data={_target_: a.b}: .*cifar10"):
        compose(["data={_target_: a.b}"])


WITH_MODULES = [
    ("plain", 8, "torch.nn.SiLU", nn.SiLU, 7),
    ("residual", 14, "{_target_: torch.nn.PReLU, init: 0.1}", nn.PReLU, 13),
    ("vgg", 11, "{_target_: torch.nn.LeakyReLU, negative_slope: 0.2}", nn.LeakyReLU, 10),
    ("bottleneck", 11, "torch.nn.PReLU", nn.PReLU, 10),
]


@pytest.mark.parametrize(("family", "depth", "activation", "kind", "layers"), WITH_MODULES)
def test_an_activation_that_is_a_module_is_made_for_each_layer(
    family: str, depth: int, activation: str, kind: type[nn.Module], layers: int
) -> None:
    model = build_model(compose([f"model={family}", f"model.depth={depth}", f"model.activation={activation}"]).model)
    made = [module for module in model.modules() if isinstance(module, kind)]
    assert len(made) == layers
    passed: list[nn.Module] = []
    for module in made:
        module.register_forward_hook(lambda own, *_: passed.append(own))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert len(passed) == len(set(passed)) == layers


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("torch.nn.InstanceNorm2d", nn.InstanceNorm2d),
        ("torch.nn.BatchNorm2d", nn.BatchNorm2d),
        ("{_target_: torch.nn.BatchNorm2d, eps: 0.001}", nn.BatchNorm2d),
    ],
)
def test_a_norm_that_is_a_module_gets_the_channels_alone(norm: str, kind: type[nn.Module]) -> None:
    model = build_model(compose([f"model.norm={norm}", "model.depth=8"]).model)
    found: list[Any] = [own for own in model.modules() if isinstance(own, kind)]
    assert [own.num_features for own in found] == [16, 16, 16, 32, 32, 64, 64]
    assert {own.eps for own in found} == {0.001 if "eps" in norm else 1e-5}
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_module_that_cannot_be_made_is_refused_in_one_line() -> None:
    for override in ("model.norm=torch.nn.GroupNorm", "model.activation=torch.nn.Threshold"):
        with pytest.raises(ConfigError, match=rf"^{override}: cannot be made \(.*\)$"):
            build_model(compose([override]).model)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.name={_target_: torch.optim.RMSprop, alfa: 1}", "unexpected keyword argument 'alfa'"),
        ("optim.name={_target_: torch.optim.Nothing}", "name an object as Python imports it"),
        ("optim.name={_target_: nothing}", "its target has no dots and is not added"),
        ("optim.name={alpha: 1}", r"name what is to be called, as in {_target_: PATH}"),
        ("optim.name={_target_: torch.optim.SGD, 1: 2}", "the names of arguments are words"),
        ("optim.name={_target_: torch.optim.SGD, foreach: ${seed}}", "a call refers to no other setting"),
        ("model.norm={_target_: torch.nn.GroupNorm, num_groups: 4}", "multiple values for argument 'num_groups'"),
        ("optim={_target_: torch.optim.SGD, _partial_: true}", "_partial_ is not for here"),
        ("optim.name='{a'", r"no call; write {_target_: PATH, ARGUMENT: VALUE}"),
        ("model.depth={_target_: math.pi}", "write a single value"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_in_one_line(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        compose([override])
    assert "\n" not in str(caught.value)


def test_an_argument_that_cannot_be_made_is_named(small: Callable[..., Experiment]) -> None:
    made = small("optim.name={_target_: torch.optim.SGD, foreach: {_target_: math.sqrt, x: 1}}")
    with pytest.raises(ConfigError, match=r"'_target_': 'math.sqrt'.*TypeError"):
        optimizer(build_model(made.model), made.optim)


def test_an_initialiser_that_takes_no_generator_is_refused(small: Callable[..., Experiment]) -> None:
    with pytest.raises(ConfigError, match=r"model.init=torch.nn.init.zeros_: cannot be called"):
        build_model(small("model.init=torch.nn.init.zeros_").model)


def test_an_optimizer_of_ones_own_needs_no_closure() -> None:
    @register("optim.name", "mine")
    class Mine(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    made = optimizer(nn.Linear(2, 2), compose(["optim=mine"]).optim)
    assert isinstance(made, Mine)


@pytest.mark.parametrize(
    ("key", "name", "known"),
    [
        ("model.activation", "relu", True),
        ("model.activation", "torch.nn.functional.silu", True),
        ("model.activation", "{_target_: torch.nn.LeakyReLU, negative_slope: 0.1}", True),
        ("model.activation", "{_target_: subprocess.Popen, args: touch x, shell: true}", False),
        ("model.activation", "{_target_: torch.nn.PReLU, init: {_target_: os.system, command: touch x}}", False),
        ("model.activation", "{_target_: [", False),
        ("model.activation", "torch.tanh", True),
        ("model.activation", "torch.nn.modules.activation.SiLU", True),
        ("optim.name", "{_target_: torch.optim.AdamW, betas: [0.9, 0.95]}", True),
        ("optim.name", "{_target_: torch.optim.AdamW, betas: [{_target_: os.getpid}]}", False),
        ("model.activation", "{_target_: torch.save, f: anywhere}", False),
        ("model.init", "os.system", False),
        ("model.init", "torch.nn.functional.importlib.import_module", False),
        ("optim.name", "torch.optim.RMSprop", True),
        ("optim.name", "torch.hub.load", False),
    ],
)
def test_what_a_weights_file_may_name(key: str, name: str, *, known: bool) -> None:
    assert registry.is_known(key, name) is known


def test_the_rate_is_no_argument_of_an_optimizer(small: Callable[..., Experiment]) -> None:
    made = small("optim.name={_target_: torch.optim.RMSprop, lr: 1}")
    with pytest.raises(ConfigError, match=r"optim\.lr sets this; leave it out here"):
        optimizer(build_model(made.model), made.optim)


def test_what_a_file_defines_is_named_by_the_files_name(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own_norm.py").write_text(
        "from torch import nn\n\n\ndef norm(channels, config, groups):\n    return nn.GroupNorm(groups, channels)\n"
    )
    words = ["--with", "own_norm.py", "model.norm={_target_: own_norm.norm, groups: 4}", *FEW]
    done = cli("sweep", *words, "recipe=smoke", "data=synthetic", "model.depth=8")
    assert (done.code, done.err) == (0, "")
    (record,) = find_records([tmp_path / "outputs"])
    assert "model.norm=own_norm.norm_groups_4~" in record.path.parent.name
    assert record.experiment.model.norm == "{_target_: own_norm.norm, groups: 4}"
    forget()
    sys.modules.pop("own_norm")
    assert cli("evaluate", str(record.path)).code == 0  # the record names the file
    (tmp_path / "own.norm.py").write_text(SCALE)  # a name that no import could have
    assert cli("train", "--with", "own.norm.py", "model.norm=scale", "--dry-run").code == 0
    forget()


def test_a_norm_of_ones_own_may_be_batch_norm(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        SCALE.replace("class Scale(nn.Module)", "class Scale(nn.BatchNorm2d)")
        .replace("super().__init__()", "super().__init__(channels)")
        .split("    def forward")[0]
    )
    words = ["recipe=smoke", "data=synthetic", "model.depth=8", *FEW]
    assert cli("sweep", "--with", "mine.py", "model.norm=scale,batch", *words).code == 0
    one, other = (record.rows()[-1] for record in find_records([tmp_path / "outputs"]))
    assert one["train_error_batch"] == other["train_error_batch"] != other["train_error_clean"]


def test_a_package_names_its_networks_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from degrade.models import CifarNet\n\nclass Net(CifarNet):\n    depths = range(8, 99, 6)\n"
    )
    about = tmp_path / "my_nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-nets\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{registry.GROUP}]\nmine = my_nets:Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = compose(["model=mine", "model.depth=14"]).model
    assert type(build_model(model)).__module__ == "my_nets"
    with pytest.raises(
        ConfigError, match=r"model.depth=15: a mine network has depth 8, 14, 20 ...; nearest: 14 or 20"
    ):
        compose(["model=mine", "model.depth=15"])
    sys.modules.pop("my_nets")


def test_a_family_of_ones_own_is_compared_at_one_width() -> None:
    @register("model.family", "own")
    class Own(nn.Module):
        def convolutions(self) -> list[tuple[str, nn.Module]]:
            return []

    assert family_settings(compose(["model=own", "model.width=16"])) == {"model.width": 16}
    assert family_settings(compose(["model=plain"])) == {}


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"it is no nn.Module with a method convolutions\(\)"):
        build_model(ModelConfig(family="torch.nn.Identity"))


def test_recomputing_is_refused_where_a_network_has_no_such_part(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "dense.py").write_text(blocks("python")[0])
    words = ["model=dense", "recipe=smoke", "data=synthetic", "--depth", "8", "runtime.recompute=true"]
    done = cli("train", "--with", "dense.py", *words)
    assert (done.code, "runtime.recompute=true: the network dense has no such part" in done.err) == (2, True)


def test_a_record_names_files_only_where_there_are_some(small: Callable[..., Experiment], tmp_path: Path) -> None:
    """Old records have no such setting."""
    old = tmp_path / "config.yaml"
    old.write_text("model: {family: plain, depth: 8}\ndata: {name: synthetic}\noptim: {}\nrecipe: {name: smoke}\n")
    assert load_config(old).modules == []


@pytest.mark.parametrize(
    ("key", "own"),
    [
        ("model.family", FAMILIES),
        ("model.norm", NORMS),
        ("model.init", INITS),
        ("model.activation", ACTIVATIONS),
        ("optim.name", OPTIMIZERS),
        ("recipe.schedule", {"steps": None, **SCHEDULES}),
    ],
)
def test_the_schema_names_what_each_room_holds(key: str, own: dict[str, object]) -> None:
    assert set(settings()[key].choices) == set(own)
