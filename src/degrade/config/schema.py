"""The settings of an experiment, as dataclasses that validate themselves and name the mend.

They are Hydra's schema as well, so their defaults are the paper's recipe; the files in `configs/` explain each
choice to somebody who reads them without this one. No torch here.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from degrade.errors import ConfigError, did_you_mean

#: Settings of a few words, and the words.
CHOICES = {
    "model.family": ("plain", "residual", "vgg"),
    "model.shortcut": ("A", "B", "C"),
    "model.norm": ("batch", "none"),
    "model.init": ("he", "xavier", "gaussian", "dirac"),
    "data.name": ("cifar10", "synthetic", "folder"),
    "data.split": ("full", "45k/5k"),
    "data.mean": ("per_pixel", "per_channel"),
    "recipe.warmup": ("auto", "on", "off", "linear", "quadratic"),
    "runtime.precision": ("auto", "fp32", "bf16"),
    "runtime.engine": ("auto", "eager", "compiled", "graph", "compiled-graph"),
    "runtime.memory_format": ("channels_last", "contiguous"),
}

#: Sides of images, in pixels, that `data.pixels` may ask for.
SIDES = (32, 16, 8)

#: Training and test images of CIFAR-10, and of the generated ones, by `data.split`.
IMAGES = {"full": (50_000, 10_000), "45k/5k": (45_000, 5_000)}


@dataclass
class ModelConfig:
    """A plain or residual network (paper, section 4.2), or a VGG to set beside them."""

    family: str = "plain"
    """`plain`, or `residual`: the same network plus a shortcut around each pair of 3x3 convolutions; or `vgg`."""
    depth: int = 20
    """Weighted layers: 6n + 2; of a VGG 11, or 7 + 3k from 13."""
    width: int = 64
    """VGG only: channels of the first of its five stages."""
    classes: int = 10
    """Outputs of the last layer."""
    shortcut: str = "A"
    """Residual only. `A`: identity, zero-padded; `B`: 1x1 convolution where the shape changes; `C`: everywhere."""
    norm: str = "batch"
    """`batch` or `none`."""
    init: str = "he"
    """Initial weights: `he`, `xavier`, `gaussian` (standard deviation 0.01) or `dirac`: identities where a
    convolution has as many channels before as after, He elsewhere."""
    start: str | None = None
    """The run whose trained network this one begins as, in the name that `degrade probe construct` gives it; None:
    the network begins as `init` says."""
    bn_scale: float = 1.0
    """Initial scale of every batch norm. The paper's framework begins with 1."""
    zero_init: bool = False
    """Residual only. The last batch norm of each residual block begins with scale 0, the block as its shortcut."""
    bn_momentum: float = 0.1
    """Share of the newest batch in batch norm's running statistics. Open in the paper."""
    bn_epsilon: float = 1e-5
    """Added to batch norm's variance. Open in the paper."""

    def __post_init__(self) -> None:
        _one_of("model.family", self.family)
        _one_of("model.shortcut", self.shortcut)
        _one_of("model.norm", self.norm)
        _one_of("model.init", self.init)
        _within("model.classes", self.classes, 2, 10**6)
        _within("model.bn_momentum", self.bn_momentum, 0, 1)
        _positive("model.bn_epsilon", self.bn_epsilon)
        _positive("model.bn_scale", self.bn_scale)
        if self.norm == "none" and (self.zero_init or self.bn_scale != 1):
            key = "zero_init=true" if self.zero_init else f"bn_scale={self.bn_scale}"
            raise ConfigError(
                f"model.{key}: it sets the scale of batch norm, and model.norm=none has none; leave it out"
            )
        if self.zero_init and self.family != "residual":
            raise ConfigError(
                f"model.zero_init=true: without a shortcut no signal would pass a {self.family} network; "
                "use it with model=residual"
            )
        if self.family == "vgg":
            _within("model.width", self.width, 1, 1024)
            _vgg_depth(self.depth)
        else:
            if self.width != ModelConfig.width:
                raise ConfigError(
                    f"model.width={self.width}: only model=vgg has a width; plain and residual networks begin with 16"
                )
            _resnet_depth(self.depth)


@dataclass
class DataConfig:
    """Where images come from and how they are fed (paper, section 4.2)."""

    name: str = "cifar10"
    """`cifar10`, `synthetic` or `folder`."""
    root: str | None = None
    """Folder with the images. None: environment variable DEGRADE_DATA, else the user's cache directory."""
    pixels: int = 32
    """Side of the images: 32, or 16 or 8, to which they are averaged down."""
    split: str = "full"
    """`full`, or `45k/5k`: train on the first nine tenths and test on the rest of the training images."""
    mean: str = "per_pixel"
    """What is subtracted: the `per_pixel` mean image (paper) or `per_channel` means."""
    augment: bool = True
    """Pad by 4 (an eighth of the side), random crop, random flip (paper)."""
    train_limit: int | None = None
    """Use only the first so many training images, at most as many as there are."""
    test_limit: int | None = None
    """Use only the first so many test images, at most as many as there are."""
    seed: int = 0
    """Seeds the generator of `synthetic`; unused otherwise."""

    def __post_init__(self) -> None:
        _one_of("data.name", self.name)
        _one_of("data.split", self.split)
        _one_of("data.mean", self.mean)
        if self.pixels not in SIDES:
            raise ConfigError(f"data.pixels={self.pixels}: choose one of {', '.join(map(str, SIDES))}")
        _within("data.seed", self.seed, 0, 2**63 - 1)
        for key, limit in (("data.train_limit", self.train_limit), ("data.test_limit", self.test_limit)):
            if limit is not None:
                _at_least(key, limit, 1)
        if self.name != "folder":  # whose images are counted when they are loaded
            self.check_limits(*IMAGES[self.split], of=f"data={self.name}, data.split={self.split}")
        if self.name == "folder" and not self.root:
            raise ConfigError("data=folder needs data.root=DIR, a folder with train/<class>/* and test/<class>/*")

    def check_limits(self, train: int, test: int, *, of: str) -> None:
        """Refuse limits beyond the images that there are.

        Args:
            train: how many training images there are.
            test: how many test images.
            of: what they belong to.

        Raises:
            ConfigError: a limit is greater.
        """
        for kind, limit, there in (("train", self.train_limit, train), ("test", self.test_limit, test)):
            if limit is not None and limit > there:
                images = f"{there:,} {'training' if kind == 'train' else 'test'} images"
                raise ConfigError(
                    f"data.{kind}_limit={limit}: there are {images} ({of}); write a smaller number, or null for all"
                )


@dataclass
class OptimConfig:
    """Stochastic gradient descent (paper, section 3.4)."""

    lr: float = 0.1
    """Learning rate before the first milestone."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    """Nesterov's momentum instead of the paper's classical one."""
    decay_norm: bool = True
    """Weight decay on batch norm's scale and shift too. Open in the paper."""
    clip: float | None = None
    """Greatest Euclidean norm of the gradient of all weights together; a greater one is scaled down. None: any."""

    def __post_init__(self) -> None:
        _positive("optim.lr", self.lr)
        _within("optim.momentum", self.momentum, 0, 1, below=True)
        _not_negative("optim.weight_decay", self.weight_decay)
        if self.clip is not None:
            _positive("optim.clip", self.clip)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("optim.nesterov=true needs optim.momentum above 0")


@dataclass
class RecipeConfig:
    """How long and at what rate: counted in iterations, never in epochs (paper, section 4.2)."""

    name: str = "paper"
    """Names the recipe in records and figures."""
    iterations: int = 64000
    milestones: list[int] = field(default_factory=lambda: [32000, 48000])
    """The rate is divided by 10 after these iterations: the update made at a milestone uses the old rate."""
    batch_size: int = 128
    warmup: str = "auto"
    """`on`: `warmup_lr` until the training error falls below `warmup_error` (paper). `linear` or `quadratic`: the
    rate rises from 0 over `warmup_iterations`. `off`. `auto`: on for depth 110 and deeper (paper), off below."""
    warmup_lr: float = 0.01
    """Learning rate while warming up, where warm-up is `on`."""
    warmup_error: float = 0.8
    """Training error, a fraction, below which warming up ends, where it is `on`."""
    warmup_iterations: int = 200
    """Updates over which the rate rises, where warm-up is `linear` or `quadratic`."""

    def __post_init__(self) -> None:
        # YAML 1.1 reads a bare on/off as a boolean.
        self.warmup = {"true": "on", "false": "off"}.get(self.warmup.lower(), self.warmup)
        _one_of("recipe.warmup", self.warmup)
        _path_part("recipe.name", self.name)
        _within("recipe.iterations", self.iterations, 1, 10**9)
        _within("recipe.batch_size", self.batch_size, 1, 10**6)
        _positive("recipe.warmup_lr", self.warmup_lr)
        _within("recipe.warmup_error", self.warmup_error, 0, 1)
        _within("recipe.warmup_iterations", self.warmup_iterations, 1, 10**9)
        if sorted(set(self.milestones)) != list(self.milestones) or any(m < 1 for m in self.milestones):
            raise ConfigError(
                f"recipe.milestones={list(self.milestones)}: write rising iterations from 1, such as [32000,48000]"
            )

    def warms_up(self, depth: int) -> bool:
        """Whether a network of `depth` starts at the warm-up rate."""
        return self.warmup == "on" or (self.warmup == "auto" and depth >= 110)

    @property
    def ramp(self) -> tuple[int, int]:
        """Updates over which the rate rises from 0, and the power of its rise; 0 updates where it does not."""
        powers = {"linear": 1, "quadratic": 2}
        return (self.warmup_iterations, powers[self.warmup]) if self.warmup in powers else (0, 1)


@dataclass
class EvalConfig:
    """When the network is evaluated, in iterations. There is always an evaluation at the end."""

    every: int | None = None
    """On the test images. None: once an epoch."""
    clean_every: int | None = None
    """On all training images, un-augmented, with running and with batch statistics. None: at the end only."""
    batch_size: int | None = None
    """Images a forward pass; changes speed and memory, not results. None: 250 on a CPU, 2,500 on a CUDA device."""

    def __post_init__(self) -> None:
        _interval("eval.every", self.every)
        _interval("eval.clean_every", self.clean_every)
        if self.batch_size is not None:
            _at_least("eval.batch_size", self.batch_size, 1)


@dataclass
class CheckpointConfig:
    """When a checkpoint is written; interruption writes one too."""

    every: int | None = None
    """In iterations. None: as often as evaluations."""
    snapshots: int | None = None
    """Keep the weights alone of about so many iterations, the first and the last among them. None: of none."""

    def __post_init__(self) -> None:
        _interval("checkpoint.every", self.every)
        if self.snapshots is not None:
            _within("checkpoint.snapshots", self.snapshots, 2, 1000)

    def snapshot_iterations(self, last: int) -> list[int]:
        """Where snapshots are due in a run of `last` iterations: 0, then evenly spaced in the logarithm from 1.

        Early ones that round to the same iteration are one.
        """
        if self.snapshots is None:
            return []
        steps = self.snapshots - 2
        return sorted({0, last, *(round(last ** (k / steps)) for k in range(steps))})


@dataclass
class LogConfig:
    """How fine the training curve is, and who else is told."""

    every: int | None = None
    """Iterations between rows of metrics. None: as often as evaluations."""
    tensorboard: bool = False
    """Write the rows for TensorBoard too, into the run's directory."""

    def __post_init__(self) -> None:
        _interval("log.every", self.every)


@dataclass
class RuntimeConfig:
    """Where and how the arithmetic is done."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: str = "auto"
    """`fp32`, `bf16` (autocast), or `auto`: bf16 where the device is fast at it."""
    engine: str = "auto"
    """`eager`, `compiled` (torch.compile), `graph` (a CUDA graph), `compiled-graph` (both), or `auto`."""
    memory_format: str = "channels_last"
    """How images lie in memory: `channels_last` or `contiguous` (channels first)."""
    threads: int | None = None
    """CPU threads. None: PyTorch's choice."""
    deterministic: bool = False
    """Bitwise reproducible on CUDA, more slowly."""
    recompute: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d?))?", self.device):
            raise ConfigError(f"runtime.device={self.device}: choose one of auto, cpu, cuda, cuda:N")
        _one_of("runtime.precision", self.precision)
        _one_of("runtime.engine", self.engine)
        _one_of("runtime.memory_format", self.memory_format)
        if self.threads is not None:
            _within("runtime.threads", self.threads, 1, 1024)


@dataclass
class Experiment:
    """One network trained once: everything that its result is a function of."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    log: LogConfig = field(default_factory=LogConfig)
    seed: int = 0
    """Seeds initial weights, order of images and augmentation."""
    output: str = "outputs"
    """Root folder of all records."""
    name: str = "paper"
    """Experiment: the folder below `output`."""

    def __post_init__(self) -> None:
        _within("seed", self.seed, 0, 2**63 - 1)
        _path_part("name", self.name)
        if self.model.family == "vgg" and self.data.pixels != 32:
            raise ConfigError(
                f"data.pixels={self.data.pixels}: a VGG halves its images five times, which takes 32 pixels; "
                "write data.pixels=32"
            )
        if not self.output or "\0" in self.output:
            raise ConfigError(f"output={self.output!r}: name a folder")

    def flat(self) -> dict[str, Any]:
        """All settings as `{"model.depth": 20, ...}`."""
        return flatten(dataclasses.asdict(self))


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `{"model.depth": 20, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _one_of(key: str, value: str) -> None:
    choices = CHOICES[key]
    if value not in choices:
        hint = did_you_mean(value, choices)
        listed = "" if hint.startswith("choose") else f" (one of {', '.join(choices)})"
        raise ConfigError(f"{key}={value}: {hint}{listed}")


def _resnet_depth(depth: int) -> None:
    _not_absurd(depth)
    if depth < 8 or depth % 6 != 2:
        n = (depth - 2) // 6
        near = sorted({max(8, 6 * n + 2), max(8, 6 * n + 8)})
        raise ConfigError(
            f"model.depth={depth}: depth is 6n + 2 (each of three stages has 2n layers); "
            f"nearest: {' or '.join(map(str, near))}"
        )


def _not_absurd(depth: int) -> None:
    if depth > 10_000:
        raise ConfigError(f"model.depth={depth}: the deepest that is built is 10000; the paper's is 1202")


def _vgg_depth(depth: int) -> None:
    _not_absurd(depth)
    if depth != 11 and (depth < 13 or depth % 3 != 1):
        below = depth - (depth - 1) % 3
        near = [11] if depth < 11 else [11, 13] if depth == 12 else [below, below + 3]
        raise ConfigError(
            f"model.depth={depth}: a VGG has 11, 13, 16, 19 layers, or deeper by the same rule, 7 + 3k: 22, 25, 28 "
            f"...; nearest: {' or '.join(map(str, near))}"
        )


def _at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{key}={value}: must be {least} or more")


def _interval(key: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(f"{key}={value}: must be 1 or more iterations, or null for the default")


def _positive(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{key}={value}: must be a finite number above 0")


def _not_negative(key: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{key}={value}: must be 0 or a finite number above it")


def _within(key: str, value: float, low: float, high: float, *, below: bool = False) -> None:
    inside = low <= value < high if below else low <= value <= high
    if not inside:
        raise ConfigError(f"{key}={value}: must lie from {low:,} to {'below ' if below else ''}{high:,}")


def _path_part(key: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,99}", value):
        raise ConfigError(
            f"{key}={value!r}: it names a folder; use up to 100 letters, digits and . _ + = , - "
            "beginning with a letter or digit"
        )
