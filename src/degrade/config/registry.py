"""Choices that are added from outside: by a user's Python file, by an installed package, or by a name with dots.

Each room holds a table of its own choices, such as `models.norm.NORMS`, whose names the schema lists. This module
holds those that are added to them, by the key of their setting, and imports neither torch nor Hydra itself.
"""

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from degrade.errors import ConfigError

Built = TypeVar("Built", bound=Callable[..., Any])

#: Settings whose choices can be added to, and what a choice is called with, which gives what the setting names.
OPEN = {
    "model.family": "ModelConfig -> network",
    "model.norm": "channels, ModelConfig -> module",
    "model.init": "weight, generator -> None, in place",
    "model.activation": "tensor -> tensor",
    "optim.name": "groups of parameters, OptimConfig -> optimizer",
    "recipe.schedule": "updates made, updates in all -> share of the rate",
}

#: Paths of what PyTorch has for these settings: names right below its modules, since modules hold others too.
_PYTORCH = (
    r"torch\.(tanh|sigmoid|relu|sin|cos)"
    r"|torch\.(nn|nn\.functional|nn\.init|optim|optim\.lr_scheduler)\.[A-Za-z0-9]\w*"
    r"|torch\.nn\.modules\.(activation|batchnorm|instancenorm|normalization)\.[A-Z]\w*"
)

#: Installed packages name families of networks under this group of entry points.
GROUP = "degrade.families"


class _File(NamedTuple):
    digest: str
    given: bool
    """Whether the user named it, so that it stands for a recorded file of its name."""


_added: dict[str, dict[str, Any]] = {key: {} for key in OPEN}
_files: dict[Path, _File] = {}


def register(key: str, name: str) -> Callable[[Built], Built]:
    """A decorator that adds what it stands above to the choices of a setting: `@register("model.norm", "scale")`.

    Args:
        key: the key of the setting, one of `OPEN`, which says what the choice is called with.
        name: the name of the choice.

    Raises:
        ConfigError: the setting has no choices that can be added to, or the name is taken or cannot be one.
    """
    from degrade.config.schema import settings  # here, since the schema asks this module

    if key not in OPEN:
        raise ConfigError(f"register({key!r}, {name!r}): choices are added to {', '.join(OPEN)}")
    if name in settings()[key].choices or name in _added[key]:
        raise ConfigError(f"register({key!r}, {name!r}): the name is taken; choose another")
    if not name.isidentifier():
        raise ConfigError(f"register({key!r}, {name!r}): write a name of letters, digits and _")

    def add(built: Built) -> Built:
        if key == "model.family" and not callable(getattr(built, "convolutions", None)):
            raise ConfigError(f"register({key!r}, {name!r}): it lacks a method convolutions(), which probes ask")
        _added[key][name] = built
        find.cache_clear()
        return built

    return add


def names(key: str) -> tuple[str, ...]:
    """The names that are added to a setting's choices, by files and by packages."""
    packages = [own.name for own in _packages()] if key == "model.family" else []
    return tuple(dict.fromkeys([*_added.get(key, ()), *packages]))


@functools.cache
def find(key: str, name: str) -> Any:
    """What a name that is no choice of degrade's own stands for; None for a name without dots that nobody added.

    Raises:
        ConfigError: it has dots, or a package names it, and Python finds no such object.
    """
    if name in _added[key]:
        return _added[key][name]
    if name.startswith("{"):
        return _call(key, name)
    packages = {own.name: own.value for own in _packages()} if key == "model.family" else {}
    path = name if "." in name else packages.get(name)
    if path is None:
        return None
    try:
        found = pkgutil.resolve_name(path)
    except Exception as error:  # whatever a package's import raises
        raise ConfigError(f"{key}={name}: {_first_line(error)}; name an object as Python imports it") from error
    if not callable(found):
        raise ConfigError(f"{key}={name}: it cannot be called; it is to take {OPEN[key]}")
    return found


class Call:
    """A target with arguments of its own, which takes the others as `OPEN` says.

    Those of its own arguments that are calls themselves are made anew each time.
    """

    def __init__(self, func: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
        self.func, self.keywords = func, keywords
        self._plain = not any(isinstance(value, Mapping | list) for value in keywords.values())

    def __call__(self, *others: Any, **named: Any) -> Any:
        """Call the target; a ConfigError says where one of its own arguments cannot be made."""
        return self.func(*others, **(self.keywords if self._plain else self._made()), **named)

    def _made(self) -> dict[str, Any]:
        from hydra.utils import instantiate

        try:
            made: dict[str, Any] = instantiate(dict(self.keywords), _convert_="all")
        except Exception as error:  # whatever the target of an argument raises
            raise ConfigError(f"{self.keywords}: {_first_line(error.__cause__ or error)}") from error
        return made


def call_text(key: str, value: Mapping[Any, Any]) -> str:
    """What a setting holds for a call as Hydra writes it: `{_target_: torch.optim.RMSprop, alpha: 0.9}`.

    Raises:
        ConfigError: the setting takes no such call, or the call has no target, or cannot be kept as text.
    """
    mend = ""
    if key not in OPEN:
        mend = "write a single value"
    elif not isinstance(value.get("_target_"), str):
        mend = "name what is to be called, as in {_target_: PATH}"
    elif not all(isinstance(name, str) for name in value):
        mend = "the names of arguments are words"
    elif "${" in str(value):
        mend = "write the value itself; a call refers to no other setting"
    if mend:
        raise ConfigError(f"{key}={dict(value)}: {mend}")
    ordered = {"_target_": value["_target_"], **{name: value[name] for name in sorted(value)}}
    return yaml.safe_dump(ordered, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def _call(key: str, text: str) -> Call:
    """What `call_text` stands for."""
    try:
        own = yaml.safe_load(text)
        found = find(key, own.pop("_target_"))
    except (yaml.YAMLError, KeyError, AttributeError) as error:
        raise ConfigError(f"{key}={text}: no call; write {{_target_: PATH, ARGUMENT: VALUE}}") from error
    if found is None:
        raise ConfigError(f"{key}={text}: its target has no dots and is not added; --with FILE adds choices")
    if others := [name for name in own if name.startswith("_") and name.endswith("_")]:
        raise ConfigError(f"{key}={text}: {others[0]} is not for here; degrade calls the target itself; leave it out")
    made = Call(found, own)
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # some functions that are written in C have none
        return made
    try:
        signature.bind_partial(*[None] * arguments(key, made), **own)
    except TypeError as error:
        raise ConfigError(f"{key}={text}: {_first_line(error)}") from error
    return made


def arguments(key: str, found: Any) -> int:
    """How many arguments a choice gets by their places.

    A norm gets the channels and the settings; a class that can be made of one argument, such as `nn.BatchNorm2d`,
    gets the channels alone. An activation that is a class, such as `nn.PReLU`, is made of none before it is called.
    """
    made, own = getattr(found, "func", found), getattr(found, "keywords", {})
    if key == "model.activation" and inspect.isclass(made):
        return 0
    if key == "model.norm" and inspect.isclass(made):
        try:
            inspect.signature(made).bind(None, **own)
        except (TypeError, ValueError):
            return 2
        return 1
    return 2 if key in ("model.norm", "recipe.schedule") else 1  # of the others the first alone is sure to come so


def is_known(key: str, name: str) -> bool:
    """Whether code that a setting names may run even if somebody else wrote the file.

    It may if it is one of degrade's choices, or was added by this process's user, or is one of PyTorch's layers,
    functions on tensors, initial weights, optimizers or schedules, with no other calls among its arguments.
    """
    from degrade.config.schema import settings  # here, since the schema asks this module

    if name in settings()[key].choices or name in names(key):
        return True
    path, own = name, {}
    if name.startswith("{"):
        with contextlib.suppress(yaml.YAMLError, AttributeError):
            own = yaml.safe_load(name)
            path = str(own.pop("_target_", ""))
    if "_target_" in repr(own):
        return False
    given = path in names(key) or any(path.startswith(f"{file.stem}.") for file in _files)
    return given or re.fullmatch(_PYTORCH, path) is not None


def chosen(key: str, name: str, own: Mapping[str, Any]) -> Any:
    """What a setting's value stands for: one of a room's own choices, or one that was added.

    Raises:
        ConfigError: there is no such choice.
    """
    found = own.get(name) or find(key, name)
    if found is None:
        raise ConfigError(f"{key}={name}: nothing here has this name; name the file that adds it by --with FILE")
    return found


def _packages() -> Any:
    from importlib.metadata import entry_points  # here, since --help and most commands need none

    return entry_points(group=GROUP)


# Files


def load(file: Path, *, expected: str | None = None) -> None:
    """Import a Python file, which registers what it holds; once for each file.

    `expected` is the SHA-256 that a record names; None takes the file as it is.

    Raises:
        ConfigError: the file cannot be read or imported, adds nothing, or is not the one that the record names.
    """
    path = file.expanduser().absolute()
    try:
        digest = _files[path].digest if path in _files else hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"--with {file}: {error.strerror or error}; name a Python file") from error
    if expected not in (None, digest):
        raise ConfigError(f"{path}: changed since the run was made; --with {path} takes it as it is")
    if path in _files:
        _files[path] = _File(digest, given=_files[path].given or expected is None)
        return
    before = {key: dict(own) for key, own in _added.items()}
    try:
        name = f"degrade_with_{path.stem}_{digest[:8]}"
        _import(path, name)
        if _added == before and not _defines_something(sys.modules[name]):
            raise ConfigError("it adds nothing; put @register(KEY, NAME) above what it is to add")
    except (Exception, SystemExit) as error:  # whatever the file raises
        _added.update(before)
        find.cache_clear()
        raise ConfigError(f"--with {file}: {_first_line(error)}") from error
    _files[path] = _File(digest, given=expected is None)


def load_recorded(entries: list[str]) -> None:
    """Import the files that a record names, unless they were given by `--with`.

    A file of another content is not imported: nothing runs here that the run was not made with.

    Raises:
        ConfigError: as `load` does; or a file is missing.
    """
    for entry in entries:
        path, _, digest = entry.rpartition("#")
        given = any(own.given and Path(path).name == other.name for other, own in _files.items())
        if given or digest in {own.digest for own in _files.values()}:
            continue
        if not Path(path).is_file():
            raise ConfigError(f"{path}: the run was made with this file, which is gone; --with FILE names it anew")
        load(Path(path), expected=digest)


def recorded() -> list[str]:
    """The files that were imported, each as `PATH#SHA-256`."""
    return [f"{path}#{own.digest}" for path, own in _files.items()]


def _import(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError("not a Python file; its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look for it there
    sys.path.append(str(path.parent))  # at the end, so that a file beside it hides no package
    if path.stem.isidentifier() and path.stem not in sys.modules:
        own = importlib.util.find_spec(path.stem)
        if own is not None and own.origin == str(path):  # dotted paths find it by its name, unless that is taken
            sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def _defines_something(module: Any) -> bool:
    """Whether a file has functions or classes of its own, which a dotted path may name."""
    return any(callable(own) and getattr(own, "__module__", None) == module.__name__ for own in vars(module).values())


def _first_line(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, ConfigError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
