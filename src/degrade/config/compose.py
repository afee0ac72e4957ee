"""Hydra composes groups and shell overrides into an `Experiment`; whatever is misspelt becomes a one-line error.

Hydra and OmegaConf take a third of a second to import, and completing a command line does without them, so each
function imports what it needs.
"""

import itertools
import math
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from yaml import YAMLError

from degrade.config import registry
from degrade.config.groups import config_dir, experiment_file, group_options, own_recipes
from degrade.config.identity import without_effect
from degrade.config.launcher import LAUNCHERS, Launcher
from degrade.config.schema import Experiment, classes_of, settings
from degrade.errors import ConfigError, NoEffectError, did_you_mean

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig


#: A sweep has at most this many cells, since all of them are composed and checked before the first one is trained.
MOST_CELLS = 1000

#: The setting that a group's choice names; a choice that is added to it needs no file in the group.
_NAMED = {"model": "model.family", "optim": "optim.name"}
_SINGLE = {**_NAMED, "data": "data.name", "recipe": "recipe.iterations", "runtime": "runtime.device"}

#: Digits of the greatest whole number that can be made a float.
_FLOAT_DIGITS = 308


def compose(overrides: Sequence[str] = ()) -> Experiment:
    """Compose an experiment from `configs/` and overrides such as `model.depth=56` or `recipe=quick`.

    Raises:
        ConfigError: an override is malformed, misspelt or out of range; the message names it and the fix in one line.
    """
    from omegaconf import OmegaConf

    parsed = _parse(list(map(str, overrides)))
    groups, settings = {}, []
    for override in parsed:
        if (key := _check_key(override)) in group_options():
            groups[key] = f"{key}={override.value()}"
        else:
            settings.append((key, _value(key, override)))
    with _one_line_errors(parsed):
        config = pickle.loads(_of_groups(tuple(sorted(groups.values()))))  # noqa: S301 - our own
        config.modules = registry.recorded()
        for key, value in settings:
            OmegaConf.update(config, key, value, merge=False)
        _let_classes_follow(config, None, parsed)
        experiment = cast(Experiment, OmegaConf.to_object(config))
    refuse_without_effect(experiment, parsed)
    return experiment


def compose_cells(overrides: Sequence[str]) -> list[Experiment]:
    """Compose an experiment for every combination of the values that overrides such as `seed=0,1` name.

    Raises:
        ConfigError: as `compose` and `expand` do; a cell in which a setting takes no effect is named.
    """
    experiments = []
    for words in expand(overrides):
        try:
            experiments.append(compose(words))
        except NoEffectError as error:
            raise NoEffectError(error.key, f"the cell {' '.join(words)}: {error}") from error
    return experiments


def compose_where_it_can(cells: Iterable[Sequence[str]], wishes: Sequence[str]) -> list[Experiment]:
    """Compose many experiments and change settings of those in which they take effect.

    Args:
        cells: the overrides of each experiment, as for `compose`.
        wishes: further overrides, some of which may not apply to every cell, as `model.shortcut=B` to plain networks.

    Raises:
        NoEffectError: a wish takes effect in none of them.
        ConfigError: as `compose` does.
    """
    experiments, granted = [], set[str]()
    refusal: NoEffectError | None = None
    for cell in cells:
        own = list(wishes)
        while True:
            try:
                experiments.append(compose([*cell, *own]))
                break
            except NoEffectError as error:
                refusal, kept = error, [word for word in own if word.partition("=")[0] != error.key]
                if kept == own:
                    raise
                own = kept
        granted.update(own)
    if refusal is not None and not granted.issuperset(wishes):
        raise refusal
    return experiments


@cache
def _of_groups(choices: tuple[str, ...]) -> bytes:
    """Pickle what Hydra composes from groups, with the schema's types: composing is slow, unpickling is not.

    Hydra keeps its state in globals, so the state of a caller's own Hydra application is put back.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.version import VersionBase
    from omegaconf import OmegaConf

    outer, base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(choices))
            for choice in choices:  # an optimizer's own rate and decay suit it, and a recipe's are those of sgd
                if choice.startswith("optim=") and choice != "optim=sgd":
                    own = yaml.safe_load((config_dir() / f"{choice.replace('=', '/')}.yaml").read_text())
                    composed.optim.update({key: value for key, value in own.items() if key != "defaults"})
    finally:
        VersionBase.instance().version_base = base
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
    return pickle.dumps(OmegaConf.merge(OmegaConf.structured(Experiment), OmegaConf.to_container(composed)))


def compose_launcher(overrides: Sequence[str]) -> tuple[Launcher, list[str]]:
    """The launcher that `launcher=NAME launcher.KEY=VALUE` describe, and the overrides that describe experiments.

    Raises:
        ConfigError: there is no such launcher or setting, or it does not take the value.
    """
    from omegaconf import OmegaConf

    ours = [text for text in overrides if re.match(r"launcher[=.]", text)]
    parsed = _parse(ours)
    named = [str(override.value()) for override in parsed if override.key_or_group == "launcher"]
    name = named[-1] if named else "local"
    if name not in LAUNCHERS:
        raise ConfigError(f"launcher={name}: {did_you_mean(name, LAUNCHERS)}")
    config = OmegaConf.create({"launcher": OmegaConf.structured(LAUNCHERS[name])})
    with _one_line_errors(parsed):
        for override in parsed:
            key = override.key_or_group
            if key != "launcher" and OmegaConf.select(config, key, throw_on_missing=False, default=key) is key:
                own = [f"launcher.{known}" for known in config.launcher]
                raise ConfigError(f"{key}: launcher={name} has no such setting; {did_you_mean(key, own)}")
            if key != "launcher":
                OmegaConf.update(config, key, override.value(), merge=False)
        launcher: Any = OmegaConf.to_object(config.launcher)
    return launcher, [text for text in overrides if text not in ours]


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The cells of a sweep, the last swept key varying fastest: each a list of overrides for `compose`.

    Args:
        overrides: such as `model=plain,residual` or `seed=range(5)`, in Hydra's sweep syntax.

    Raises:
        ConfigError: an override is malformed, or swept in a way that gives no list of values, or there are more cells
            than MOST_CELLS.
    """
    parsed = _parse(overrides, sweep=True)
    # The last of several values for one key counts, as in Hydra's own sweeper.
    choices = {override.get_key_element(): _choices(override) for override in parsed}
    if math.prod(map(len, choices.values())) > MOST_CELLS:
        swept = " ".join(str(override.input_line) for override in parsed if override.is_sweep_override())
        raise ConfigError(
            f"{swept}: too many cells; a sweep has at most {MOST_CELLS:,}; sweep fewer values at a time"
        )
    return [list(cell) for cell in itertools.product(*choices.values())]


def _choices(override: "Override") -> list[str]:
    """One override for each value of a swept one; a range that is too long gives just enough to show that it is."""
    from hydra.core.override_parser.types import RangeSweep, ValueType

    text, value = str(override.input_line), override.value()
    if not override.is_sweep_override():
        return [text]
    limits = (value.start, value.stop, value.step) if isinstance(value, RangeSweep) else (1,)
    whole = all(isinstance(limit, int) or math.isfinite(limit or 0) for limit in limits) and limits[-1]
    if not override.is_discrete_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP or not whole:
        raise ConfigError(f"{text}: gives no list of values; write them out, as in seed=0,1,2, or seed=range(3)")
    with _one_line_errors():
        few = list(itertools.islice(value.range(), MOST_CELLS + 1)) if isinstance(value, RangeSweep) else []
        values = few if len(few) > MOST_CELLS else list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{text}: holds no value; write some, as in seed=0,1,2")
    return [f"{override.get_key_element()}={value}" for value in values]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read a run's resolved `config.yaml` and change single settings in it.

    A setting that had no effect in the record stays; one that loses its effect with another family gets its default.

    Raises:
        ConfigError: the file cannot be read, or it or an override holds an unknown setting or a wrong value.
    """
    from omegaconf import OmegaConf

    parsed = _parse(overrides)
    with _one_line_errors(parsed):
        config = _read(path)
        before = _validated(config)
        held = without_effect(before)
        for override in parsed:
            key = _check_key(override)
            if key in group_options():
                raise ConfigError(
                    f"{key}={override.value()}: with --config change single settings, such as {_SINGLE[key]}"
                )
            OmegaConf.update(config, key, _value(key, override), force_add=True)
        _let_classes_follow(config, before.data.classes, parsed)
        experiment = _validated(config)
        refuse_without_effect(experiment, parsed)
        for key in without_effect(experiment).keys() - held.keys():
            if settings()[key].families:  # the network is no longer of the family that has this setting
                experiment.put(key, settings()[key].default)
        return experiment


def _let_classes_follow(config: "DictConfig", before: int | None, overrides: "Sequence[Override]") -> None:
    """Let model.classes follow the data, unless it was typed or the files have a number of their own.

    `before` is the number of classes that the data brought with it before the overrides.
    """
    from omegaconf import OmegaConf

    usual = settings()["model.classes"].default
    typed = any(override.key_or_group == "model.classes" for override in overrides)
    if not typed and config.model.get("classes", usual) == (before or usual):
        now = classes_of(str(config.data.get("name", "cifar10")), str(config.data.get("labels", "fine")))
        OmegaConf.update(config, "model.classes", now or usual, force_add=True)


def _read(path: Path) -> "DictConfig":
    from omegaconf import DictConfig, OmegaConf

    mend = "name the config.yaml of a run's directory"
    if path.exists() and not path.is_file() and not path.is_dir():  # a named pipe would be waited for
        raise ConfigError(f"{path}: not a regular file; {mend}")
    try:
        config = OmegaConf.load(path)
    except YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file ({str(error).splitlines()[0]}); {mend}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'not a text file'}; {mend}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{path}: holds no settings; {mend}")
    if missing := {"model", "data", "optim", "recipe"} - {str(key) for key in config}:
        raise ConfigError(f"{path}: lacks {', '.join(sorted(missing))}; {mend}")
    return config


def refuse_without_effect(experiment: Experiment, overrides: "Sequence[Override]") -> None:
    """Refuse settings that somebody asked for and that cannot take effect.

    Raises:
        NoEffectError: there is such a setting; the message names it as it was typed, and the fix.
    """
    typed = {override.key_or_group: str(override.input_line) for override in overrides}
    for key, message in without_effect(experiment).items():
        if key in typed:
            raise NoEffectError(key, f"{typed[key]}: {message.split(': ', 1)[1]}")


@cache
def _recipe_settings(name: str) -> dict[str, Any]:
    return compose([f"recipe={name}"] if name in group_options()["recipe"] else []).flat()


def usual_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that a record's name leaves out: those of its recipe, and the usual recipe of its experiment."""
    usual = _recipe_settings(experiment.recipe.name)
    return usual | {"recipe.name": own_recipes().get(experiment.name, usual["recipe.name"])}


@dataclass(frozen=True)
class Variant:
    """One way in which a named experiment trains its networks."""

    name: str
    """What figures and tables call it, in words."""
    settings: tuple[str, ...] = ()
    """Overrides for `compose`."""
    families: tuple[str, ...] = ()
    """Families of networks that are trained in this way; empty: all."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings as a record has them: `{"optim.clip": 1}`."""
        return {override.key_or_group: override.value() for override in _parse(self.settings)}


def network_matrix(experiment: str) -> list[list[str]]:
    """The networks of a named experiment, each as overrides for `compose`: `["model=plain", "model.depth=20"]`.

    The file lists `networks`, each `[family, depth]` and perhaps more settings of its own, and may name `settings`
    that all of them share, and `variants`, under each of which every network is trained.

    Raises:
        ConfigError: there is no such experiment.
    """
    file = experiment_file(experiment)
    return [
        [f"model={family}", f"model.depth={depth}", *file.get("settings", ()), *own, *variant.settings]
        for variant in variants(experiment) or [Variant("")]  # all networks under the first variant come first
        for family, depth, *own in file["networks"]
        if not variant.families or family in variant.families
    ]


def variants(experiment: str) -> list[Variant]:
    """The variants of a named experiment; none if its networks are trained in one way.

    The file may list `variants`: each has a `name`, and may have `settings`, and `families` that it is limited to.

    Raises:
        ConfigError: there is no such experiment.
    """
    listed = experiment_file(experiment).get("variants", ())
    return [Variant(own["name"], tuple(own.get("settings", ())), tuple(own.get("families", ()))) for own in listed]


def untrained_matrix(experiment: str) -> list[list[str]]:
    """The networks that a named experiment looks at before their first update only, as `network_matrix` has them.

    The file may give `untrained`, overrides in the syntax of a sweep.

    Raises:
        ConfigError: there is no such experiment.
    """
    swept = experiment_file(experiment).get("untrained")
    return expand(swept) if swept else []


def experiment_of(config: "DictConfig") -> Experiment:
    """The experiment that a composed config describes, validated.

    Raises:
        ConfigError: the config describes none.
    """
    with _one_line_errors():
        return _validated(config)


def _validated(config: "DictConfig") -> Experiment:
    """Merge plain data into the schema, which refuses unknown keys and wrong types, and build the dataclasses.

    The files that add choices are imported before; they are in the experiment as they are now.
    """
    from omegaconf import OmegaConf

    registry.load_recorded(list(config.get("modules") or []))
    plain = OmegaConf.to_container(config, resolve=True)
    cast(dict[str, Any], plain)["modules"] = registry.recorded()
    return cast(Experiment, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Experiment), plain)))


def _parse(overrides: Sequence[str], *, sweep: bool = False) -> "list[Override]":
    parsed = []
    for text in overrides:
        if text.startswith("-"):
            raise ConfigError(f"{text}: no such option; settings are written KEY=VALUE, and `--help` lists options")
        if not text.partition("=")[0] or "=" not in text:
            raise ConfigError(f"{text or repr(text)}: settings are written KEY=VALUE, such as model.depth=56")
        override = _parsed(text)
        if override.is_delete() or override.is_add() or override.is_force_add():
            raise ConfigError(f"{text}: settings are changed, not added or deleted; write it without the {text[0]!r}")
        if override.is_sweep_override() and not sweep:
            raise ConfigError(
                f"{text}: one run takes one value; write a list as [a,b], or train several with `degrade sweep`"
            )
        parsed.append(override)
    return parsed


@cache
def _parsed(text: str) -> "Override":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not re.search(r"['\"\[\]{}()\\$]", text):  # Hydra wants quotes around ~, with which a home directory begins
        text = re.sub(r"(?<=[=,])~[^\s,]*(?=,|$)", r"'\g<0>'", text)
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, RecursionError) as error:
        raise ConfigError(f"{text}: cannot be read as KEY=VALUE; put quotes around special characters") from error
    except ValueError as error:  # Python reads whole numbers of up to 4,300 digits
        raise ConfigError(f"{text}: cannot be read as a number; write a shorter one") from error


def _check_key(override: "Override") -> str:
    """Return the override's key, or raise with the nearest key that exists."""
    key, value, text = override.key_or_group, override.value(), str(override.input_line)
    groups = group_options()
    if key in groups:
        setting = _NAMED.get(key, "")
        if isinstance(value, dict) and "_target_" in value and setting:
            return setting
        dotted = isinstance(value, str) and "." in value and setting in registry.OPEN
        if value not in groups[key] and (dotted or value in registry.names(setting)):
            return setting
        if not isinstance(value, str) or value not in groups[key]:
            known = (*groups[key], *registry.names(setting))
            more = " (--with FILE adds others)" if setting else ""
            raise ConfigError(f"{text}: {did_you_mean(str(value), known)}{more}")
    elif key == "modules":
        raise ConfigError(f"{text}: name the file by --with FILE")
    elif key == "experiment":
        raise ConfigError(f"{text}: experiments are trained by `degrade reproduce {value}`")
    elif key.partition(".")[0] == "launcher":
        raise ConfigError(f"{text}: launchers are for `degrade sweep` and `degrade reproduce`; leave it out")
    elif "@" in text or key not in settings():
        raise ConfigError(f"{text.partition('=')[0]}: no such setting; {did_you_mean(key, [*settings(), *groups])}")
    return str(key)


def _value(key: str, override: "Override") -> Any:
    value = override.value()
    return registry.call_text(key, value) if isinstance(value, dict) else value


@contextmanager
def _one_line_errors(overrides: "Sequence[Override]" = ()) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into a ConfigError of one line that names the override as it was typed."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (ConfigError, HydraException, OmegaConfBaseException, OverflowError, ValueError, RecursionError) as error:
        too_large = isinstance(error, OverflowError)
        line = "the number is too large; write a smaller one" if too_large else _useful_line(error)
        named = _as_typed(line, overrides, too_large=too_large)
        if isinstance(error, ConfigError) and named == str(error):
            raise
        raise ConfigError(named) from error


def _as_typed(message: str, overrides: "Sequence[Override]", *, too_large: bool) -> str:
    """The message with the override as it was typed, not the value that it was read as, such as inf for 1e999."""
    words = [str(override.input_line) for override in overrides]
    if any(word in message for word in words):
        return message
    for override, word in zip(overrides, words, strict=True):
        if about := re.match(rf"{re.escape(override.key_or_group)}(?:=(?:\{{.*\}}|[^:]*))?: ", message):
            typed = word.partition("=")[2].strip("'\"")
            return message if typed in message else f"{word}: {message[about.end() :]}"
    for word in words:
        if "${" in word:
            return f"{word}: {message}; refer to a setting, such as ${{recipe.name}}"
        if too_large and len(word) > _FLOAT_DIGITS:
            return f"{word}: {message}"
    return message


def _useful_line(error: BaseException) -> str:
    """The line of an error's chain that names the key and the value."""
    from omegaconf.errors import OmegaConfBaseException

    cause: Any = error
    if isinstance(error, ConfigError):
        return str(error)
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    message = (str(cause).strip() or type(cause).__name__).replace("to Integer", "to a whole number").splitlines()
    if "is not a ListConfig" in message[0]:
        message = ["a list is needed; write it in brackets, as in [X,Y]"]
    elif wrong := re.match(
        r"Value '(.*)' of type '.*' could not be converted to (Float|a whole number)$", message[0]
    ):
        message = [f"{wrong[1]} is no {'number' if wrong[2] == 'Float' else 'whole number'}"]
    elif re.match(r"Key '.*' not in '", message[0]):
        message = ["no such setting; `degrade settings` lists them all"]
    key = getattr(cause, "full_key", None)
    return f"{key}: {message[0]}" if key and key not in message[0] else message[0]
