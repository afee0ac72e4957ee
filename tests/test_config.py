import itertools
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from degrade.cli.options import networks_of
from degrade.config import EvalConfig, Experiment, RecipeConfig, compose, load_config, network_matrix
from degrade.config.compose import compose_cells, expand
from degrade.config.groups import config_dir, group_options
from degrade.config.identity import variant
from degrade.config.schema import descriptions, settings
from degrade.config.setting import Kind
from degrade.errors import ConfigError


def test_the_default_is_the_papers_recipe() -> None:
    assert compose() == Experiment()
    recipe = compose().recipe
    assert (recipe.iterations, recipe.milestones, recipe.batch_size) == (64000, [32000, 48000], 128)
    optim = compose().optim
    assert (optim.lr, optim.momentum, optim.weight_decay, optim.nesterov) == (0.1, 0.9, 1e-4, False)


@pytest.mark.parametrize("group", sorted(group_options()))
def test_every_file_of_every_group_composes(group: str) -> None:
    for option in group_options()[group]:
        extra = ["data.root=somewhere"] if option == "folder" else []
        compose([f"{group}={option}", *extra])


def test_a_recipe_sets_the_rate_and_the_shell_overrides_it() -> None:
    assert compose(["recipe=quick"]).optim.lr == 0.05
    assert compose(["recipe=quick", "optim.lr=0.2"]).optim.lr == 0.2
    assert compose(["optim.lr=0.2", "recipe=quick"]).optim.lr == 0.2
    assert compose(["recipe=quick", "recipe=short"]).recipe.name == "short"


def test_limits_beyond_the_images_are_refused_with_their_number() -> None:
    for name in ("cifar10", "synthetic"):
        assert compose([f"data={name}", "data.train_limit=50000", "data.test_limit=10000"]).data.train_limit == 50_000
        with pytest.raises(ConfigError, match=r"data\.train_limit=50001: there are 50,000 training images"):
            compose([f"data={name}", "data.train_limit=50001"])
        with pytest.raises(ConfigError, match=r"data\.test_limit=5001: there are 5,000 test images"):
            compose([f"data={name}", "data.split=45k/5k", "data.test_limit=5001"])


def test_smoke_takes_few_images_unless_told_otherwise() -> None:
    assert (compose(["recipe=smoke"]).data.train_limit, compose(["recipe=smoke"]).data.test_limit) == (128, 64)
    assert compose(["data.train_limit=90", "recipe=smoke"]).data.train_limit == 90
    assert compose(["recipe=smoke", "data=synthetic", "data.test_limit=null"]).data.test_limit is None
    assert variant(compose(["recipe=smoke", "model.depth=8"])) == "plain-8"
    assert variant(compose(["recipe=smoke", "model.depth=8", "data=synthetic"])) == "plain-8,data=synthetic"


@pytest.mark.parametrize(
    "swept",
    [
        *(["seed=range(1000000)"], ["seed=range(1000000000000000000000)"], ["seed=shuffle(range(1000000000))"]),
        *(["seed=range(0,1,1e-300)"], ["seed=range(500)", "model=plain,residual", "optim.lr=0.1,0.2"]),
    ],
)
def test_a_sweep_of_too_many_cells_is_refused_before_any_is_made(swept: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"too many cells; a sweep has at most 1,000; sweep fewer values at a time"):
        expand(swept)


def test_a_sweep_counts_its_cells_right() -> None:
    counts = {"range(1000)": 1000, "range(0,10,3)": 4, "range(10,0,-3)": 4, "1,2": 2, "range(0,1,0.25)": 4, "5": 1}
    assert {text: len(expand([f"seed={text}"])) for text in counts} == counts
    for text in ("range(0,10,0)", "range(0,nan)", "range(0,1e400)", "range(5,0)"):
        with pytest.raises(ConfigError, match=re.escape(f"seed={text}: ")):
            expand([f"seed={text}"])


def test_what_is_composed_is_separate() -> None:
    first, second = (compose(["model.depth=14", "seed=7"]) for _ in range(2))
    assert first == second
    first.runtime.precision = "fp32"
    first.recipe.milestones.append(3)
    assert second == compose(["model.depth=14", "seed=7"]) != first
    assert [compose([f"seed={seed}", "name=run-${seed}"]).name for seed in (1, 2)] == ["run-1", "run-2"]


def test_a_pipe_is_no_config_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(tmp_path / "config.yaml")


def test_the_experiment_is_named_after_its_recipe() -> None:
    assert compose(["recipe=quick"]).name == "quick"
    assert compose(["recipe=quick", "name=mine"]).name == "mine"


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110, 1202])
def test_depths_of_the_rule_are_accepted(depth: int) -> None:
    assert compose([f"model.depth={depth}"]).model.depth == depth


@pytest.mark.parametrize(
    ("depth", "near"), [(57, "56 or 62"), (19, "14 or 20"), (21, "20 or 26"), (2, "nearest: 8"), (-5, "nearest: 8")]
)
def test_other_depths_are_refused_with_the_nearest(depth: int, near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        compose([f"model.depth={depth}"])


def test_warm_up_is_on_by_default_from_depth_110() -> None:
    auto = RecipeConfig()
    assert [auto.warms_up(depth) for depth in (20, 56, 104, 110, 1202)] == [False, False, False, True, True]
    assert RecipeConfig(warmup="on").warms_up(20)
    assert not RecipeConfig(warmup="off").warms_up(110)
    assert compose(["recipe.warmup=false"]).recipe.warmup == "off"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.pixels=24"], "data.pixels=24: choose one of 32, 16, 8"),
        (["model=vgg", "data.pixels=16"], "data.pixels=16: a VGG halves its images five times"),
        (["model.zero_init=true"], "model.zero_init=true: without a shortcut no signal would pass; only"),
        (["model=residual", "model.norm=none", "model.zero_init=true"], "model.zero_init=true: it sets the scale"),
        (["model.norm=none", "model.bn_scale=0.5"], "model.bn_scale=0.5: it sets the scale of batch norm"),
        (["model.bn_scale=0"], "model.bn_scale=0.0: must be a finite number above 0"),
        (["optim.clip=0"], "optim.clip=0.0: must be a finite number above 0"),
        (["recipe.warmup=linear", "recipe.warmup_iterations=0"], "recipe.warmup_iterations=0: must lie from 1"),
        (["recipe.warmup=cubic"], "recipe.warmup=cubic: choose one of auto, linear, off, on, quadratic"),
    ],
)
def test_remedies_that_make_no_sense_are_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose(settings)


def test_misspelt_keys_and_values_get_suggestions() -> None:
    with pytest.raises(ConfigError, match=r"model\.dpth: no such setting; did you mean model\.depth"):
        compose(["model.dpth=56"])
    with pytest.raises(ConfigError, match="recipe=papr: did you mean paper"):
        compose(["recipe=papr"])
    with pytest.raises(ConfigError, match="did you mean residual"):
        compose(["model.family=residuall"])


def test_composing_leaves_the_callers_hydra_alone(tmp_path: Path) -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    (tmp_path / "c.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose()
        assert GlobalHydra.instance().is_initialized()
        assert GlobalHydra.instance().hydra is not None
    assert not GlobalHydra.instance().is_initialized()


def test_a_config_file_round_trips_and_takes_overrides(tmp_path: Path) -> None:
    original = compose(["recipe=quick", "model=residual", "recipe.warmup=on", "seed=3"])
    path = tmp_path / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(original))))
    assert load_config(path) == original
    assert load_config(path, ["seed=4"]).seed == 4
    with pytest.raises(ConfigError, match=r"recipe=paper: with --config change .*, such as recipe\.iterations"):
        load_config(path, ["recipe=paper"])
    with pytest.raises(ConfigError, match=r"such as model\.family"):
        load_config(path, ["model=residual"])
    path.write_text(path.read_text().replace("  depth:", "  colour: red\n  depth:"))
    with pytest.raises(ConfigError, match=r"model\.colour: no such setting; `degrade settings` lists them"):
        load_config(path)


def test_experiments_name_the_papers_networks() -> None:
    assert network_matrix("figure1") == [["model=plain", "model.depth=20"], ["model=plain", "model.depth=56"]]
    assert ["model=residual", "model.depth=110"] in network_matrix("figure6")
    assert len(network_matrix("figure6")) == 9
    with pytest.raises(ConfigError, match="figure6"):
        network_matrix("figure66")


def test_every_field_of_every_config_file_is_commented() -> None:
    """By a comment above or beside it, or by the file's head where the file sets one thing."""
    sections = {"defaults", "data", "optim", "recipe", "eval", "checkpoint", "log"}
    for path in config_dir().rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("#"), path
        fields = [line for line in lines if ":" in line and not line.strip().startswith(("#", "-"))]
        for before, line in itertools.pairwise(lines):
            key = line.strip().partition(":")[0]
            if line in fields and key not in sections and len(fields) > 2:
                assert before.strip().startswith("#") or "#" in line, f"{path}: {key}"


def test_an_absurd_depth_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="the deepest that is built is 10000"):
        compose(["model.depth=99999999998"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["model.shortcut=B"],
            "model.shortcut=B: a plain network has no shortcuts to choose; write model=residual",
        ),
        (["model=vgg", "model.shortcut=C"], "model.shortcut=C: a vgg network has no shortcuts to choose"),
        (["model=residual", "model.width=32"], "model.width=32: a residual network begins with 16"),
        (["model.norm=none", "model.bn_momentum=0.2"], "model.bn_momentum=0.2: it is a setting of batch norm"),
        (["model.norm=none", "optim.decay_norm=false"], "optim.decay_norm=false: it is a setting of batch norm"),
        (
            ["recipe.warmup_lr=0.02"],
            "recipe.warmup_lr=0.02: it belongs to a warm-up that is on, and recipe",
        ),
        (
            ["recipe=quick", "recipe.warmup_error=0.5"],
            "recipe.warmup=linear is none at depth 20; write recipe",
        ),
        (
            ["recipe.warmup=off", "recipe.warmup_iterations=9"],
            "recipe.warmup=off is none; write recipe.warmup=",
        ),
        (
            ["data.seed=3"],
            "data.seed=3: it seeds the images of data=synthetic, and data=cifar10 has its own",
        ),
    ],
)
def test_a_setting_that_cannot_take_effect_is_refused(settings: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose(settings)
    kept = tmp_path / "config.yaml"
    kept.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(compose(settings[:-1])))))
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(kept, settings[-1:])


def test_settings_that_take_effect_or_are_the_default_are_accepted() -> None:
    assert compose(["model.shortcut=A", "data.seed=0", "model.width=64"]) == Experiment()
    assert compose(["model=residual", "model.shortcut=B"]).model.shortcut == "B"
    assert compose(["model.depth=110", "recipe.warmup_lr=0.02"]).recipe.warmup_lr == 0.02
    assert compose(["data=synthetic", "data.seed=3"]).data.seed == 3
    # The recipe's ramp goes without a word with the warm-up that it belongs to.
    assert compose(["recipe=quick", "recipe.warmup=off"]).recipe.warmup_iterations == 300


def test_a_record_that_holds_settings_without_effect_still_reads(tmp_path: Path) -> None:
    kept = tmp_path / "config.yaml"
    text = OmegaConf.to_yaml(OmegaConf.create(asdict(compose()))).replace("shortcut: A", "shortcut: B")
    kept.write_text(text)
    assert load_config(kept).model.shortcut == load_config(kept, ["seed=3"]).model.shortcut == "B"
    assert Experiment.read(yaml.safe_load(text)) == load_config(kept)
    residual = asdict(compose(["model=residual", "model.shortcut=B"]))
    kept.write_text(OmegaConf.to_yaml(OmegaConf.create(residual)))
    other = load_config(kept, ["model.family=plain", "model.depth=56"])  # a residual network's alone stay behind
    assert other == compose(["model.depth=56"])


def test_reading_is_lenient_but_with_types() -> None:
    old = {"model": {"depth": 9, "norm": "group", "novelty": 1}, "optim": {"lr": 1}, "eval": None, "later": {"x": 2}}
    experiment = Experiment.read(old)
    assert (experiment.model.depth, experiment.model.norm, experiment.model.init) == (9, "group", "he")
    assert isinstance(experiment.optim.lr, float)
    assert experiment.eval == EvalConfig()
    with pytest.raises(ConfigError, match=r"^model\.depth: banana is no whole number$"):
        Experiment.read({"model": {"depth": "banana"}})
    with pytest.raises(ConfigError, match=r"^optim\.clip: \[1\] is no number$"):
        Experiment.read({"optim": {"clip": [1]}})


def test_a_matrix_takes_a_setting_where_it_can() -> None:
    found = networks_of("figure6", ["model.shortcut=B"])
    assert {(own.model.family, own.model.shortcut) for own in found} == {("plain", "A"), ("residual", "B")}
    names = [variant(own) for own in found]
    assert names[:2] == ["plain-20", "plain-32"]
    assert names[-1] == "residual-110,model.shortcut=B"
    warmed = networks_of("figure6", ["recipe=paper", "recipe.warmup_lr=0.02", "optim.lr=0.2"])
    assert [own.model.depth for own in warmed if own.recipe.warmup_lr == 0.02] == [110]
    assert {own.optim.lr for own in warmed} == {0.2}
    with pytest.raises(ConfigError, match=r"data.seed=3: it seeds the images of data=synthetic"):
        networks_of("figure1", ["data.seed=3"])
    with pytest.raises(ConfigError, match=r"model.shortcut=B: a plain network has no shortcuts to choose"):
        networks_of("figure1", ["model.shortcut=B"])


def test_a_cell_of_a_sweep_in_which_a_setting_takes_no_effect_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"the cell model=plain model.shortcut=B: model.shortcut=B: a plain network"
    ):
        compose_cells(["model=plain,residual", "model.shortcut=A,B"])
    assert len(compose_cells(["model=residual", "model.shortcut=A,B"])) == 2


def test_recipes_of_one_experiment_have_records_of_their_own() -> None:
    found = {
        recipe: networks_of("vgg_wall", [f"recipe={recipe}"] if recipe else []) for recipe in ("", "paper", "wall")
    }
    names = {recipe: [variant(own) for own in experiments] for recipe, experiments in found.items()}
    assert names[""] == names["wall"]
    assert names[""][0] == "vgg-11,model.width=16"  # as its records were named before
    assert names["paper"] == [f"{name},recipe=paper" for name in names[""]]
    assert variant(networks_of("gradients", [])[0]) == "plain-20"
    assert variant(networks_of("gradients", ["recipe=short"])[0]) == "plain-20,recipe=short"
    assert variant(networks_of("story", ["recipe=short"])[0]) == "plain-20"  # in the folder short


def test_every_setting_says_all_about_itself() -> None:
    found = settings()
    assert list(found) == list(Experiment().flat()) == list(descriptions())
    assert all(len(doc.split()) > 1 and doc.endswith(".") for doc in descriptions().values())
    own = found["model.shortcut"]
    assert (own.types, own.default, own.choices) == ((str,), "A", ("A", "B", "C"))
    assert (own.kind, own.families) == (Kind.FIXED, ("residual",))
    assert descriptions()["model.shortcut"].startswith("Residual only. `A`: identity")
    kinds = {kind: [key for key, own in found.items() if own.kind == kind] for kind in Kind}
    assert kinds[Kind.COMPARED] == ["model.family", "model.depth", "seed"]
    assert kinds[Kind.OPEN] == ["model.bn_momentum", "model.bn_epsilon", "optim.decay_norm"]
    assert {"runtime.device", "eval.every", "log.every", "checkpoint.every", "name"} <= set(kinds[Kind.INCIDENTAL])
