"""A trained network outside its record: a safetensors file that says all it takes to use the network."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from degrade.config import Experiment, registry
from degrade.config.schema import settings
from degrade.data import ImageSet
from degrade.errors import ConfigError, RunConflictError, RunError
from degrade.files import read_bytes, replacing
from degrade.models import Classifier, build_model
from degrade.runs.library import content_of, meant, networks, there_are
from degrade.training import Training

log = logging.getLogger("degrade.run")

#: The file of a run's folder that holds the network which was exported from it.
NAME = "weights.safetensors"

#: The tensor, beside the network's own, that is to be subtracted from images: float32 3 x S x S, S 32 in the paper.
MEAN = "input_mean"

#: Where a trained network's settings are among its facts, as JSON.
CONFIG = "config"

#: Facts without which a file is none of ours.
_NEEDED = {"iteration", "class_names", "data", "data_hash"}

#: The sections of an experiment by which a network was trained; the others say how that was computed and recorded.
_SECTIONS = ("model", "data", "optim", "recipe", "seed", "name")


@dataclass(frozen=True)
class Trained:
    """A trained network, its mean image, and what a user must know of it.

    Attributes:
        name: what it is called: a name of the index, or the path of a file or record.
        tensors: its tensors by the names of the network's modules, on the CPU.
        mean: float32 3 x S x S, the mean training image in units of 1 (pixel / 255), to be subtracted from images.
        facts: what must be known of it, as text: family, depth, recipe, iteration, errors (fractions), data_hash ...
        trusted: whether it may call whatever its settings name, since they are the user's own.
    """

    name: str
    tensors: dict[str, Tensor]
    mean: Tensor
    facts: dict[str, str]
    trusted: bool = False

    @property
    def experiment(self) -> Experiment:
        """The settings by which it was trained, those of runtime and files at their defaults.

        Raises:
            RunError: they are missing or damaged, or name code that neither PyTorch nor this process has as a choice.
        """
        try:
            found = Experiment.read(json.loads(self.facts[CONFIG]))
        except (KeyError, ValueError, TypeError, AttributeError, ConfigError) as error:
            raise RunError(
                f"{self.name}: lacks its settings, as files of an earlier version do; "
                "write it anew by `degrade export --weights RUN`"
            ) from error
        for key in registry.OPEN:  # such files are passed on, so what they name is not called unasked
            if not self.trusted and not registry.is_known(key, named := str(found.flat()[key])):
                mend = "give its file by --with, or say trusted=True in Python"
                raise RunError(f"{self.name}: {key}={named} is code that the file doesn't hold; {mend}")
        return found

    @property
    def iteration(self) -> int:
        """After how many updates it was kept."""
        return int(self.facts["iteration"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, by label."""
        text = self.facts["class_names"]
        return tuple(json.loads(text) if text.startswith('["') else text.split(", "))

    def network(self) -> nn.Module:
        """The network in eval mode, on the CPU.

        Raises:
            RunError: the tensors do not fit the settings.
        """
        model: nn.Module = build_model(self.experiment.model)
        self._load_into(model)
        return model.eval()

    def classifier(self) -> Classifier:
        """The network in eval mode together with its mean image, from pixels to logits.

        Raises:
            RunError: the tensors do not fit the settings.
        """
        return Classifier(self.network(), self.mean, self.classes).eval()

    def restored(
        self, experiment: Experiment, images: ImageSet, *, tick: Callable[[int], object] | None = None
    ) -> Training:
        """A training as it stood when the network was kept, but for its optimizer; made to be evaluated.

        `experiment` has the network's settings, perhaps with another device, and `tick` is that of `Training`.

        Raises:
            RunConflictError: the images are not those it was trained on.
            RunError: the tensors do not fit the settings.
        """
        before = self.facts["data_hash"]
        if before != images.content_hash:
            raise RunConflictError(
                f"{self.name}: was trained on other images (SHA-256 {before[:12]}..., here "
                f"{images.content_hash[:12]}...): bring them back, or name their folder by DEGRADE_DATA"
            )
        training = Training(experiment, images, tick=tick, precision=self.facts.get("precision"))
        self._load_into(training.engine.model)
        training.iteration = self.iteration
        return training

    def _load_into(self, model: nn.Module) -> None:
        try:
            model.load_state_dict(self.tensors)
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            raise RunError(f"{self.name}: its tensors do not fit its settings ({lines[-1].strip()})") from error

    def save(self, target: Path) -> str:
        """Write it as a safetensors file, which replaces one that is there.

        Returns:
            The file's SHA-256.
        """
        from safetensors.torch import save

        content = _sorted(save({**self.tensors, MEAN: self.mean.contiguous()}, metadata=self.facts))
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            fresh.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def parse(cls, content: bytes, name: str) -> "Trained":
        """Read what `save` wrote; nothing in it is executed.

        Raises:
            RunError: it is something else, or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors, facts = load(content), _header(content)["__metadata__"]
            if missing := _NEEDED - facts.keys():
                raise ValueError(f"lacks {missing}")
            return cls(name, tensors, tensors.pop(MEAN), facts)
        except (SafetensorError, KeyError, ValueError) as error:
            raise RunError(f"{name}: is no whole file of `degrade export --weights`; write it anew") from error


def _header(content: bytes) -> dict[str, Any]:
    """What a safetensors file says of itself: its length in 8 bytes, then JSON, padded by spaces."""
    held: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return held


def _sorted(content: bytes) -> bytes:
    """A safetensors file with its header in order, so that the same network always gives the same bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(_header(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return content[:8] + header.ljust(length) + content[8 + length :]


def joined(names: Sequence[str]) -> str:
    """Names of classes as one text: with commas between them, or as JSON where a name has one itself."""
    return json.dumps(names) if any(", " in name or name.startswith('["') for name in names) else ", ".join(names)


def settings_to_keep(experiment: Experiment) -> str:
    """The settings of `Trained.experiment`, as JSON; no folder of the machine it was trained on is among them."""
    kept: dict[str, Any] = {key: own for key, own in asdict(experiment).items() if key in _SECTIONS}
    kept["data"] |= {key: settings()[f"data.{key}"].default for key in ("root", "url", "sources")}
    return json.dumps(kept)


def trained(source: str | Path, *, folder: Path | None = None) -> Trained:
    """A trained network that comes with degrade, by its name, or one that was exported, by its path.

    Args:
        source: the name, such as `plain-56-short`, or the path. Of `plain-56` alone see `library.meant`.
        folder: where the index is, if not where degrade has its own.

    Raises:
        ConfigError: there is neither; the message lists the names that there are.
        RunError: the file is damaged.
        RunFileError: it cannot be read just now.
    """
    known = networks(folder)
    if (name := meant(str(source), known)) is not None:
        if name != str(source):
            recipe, updates = known[name].recipe, known[name].iterations
            log.warning("%s: %s is taken (recipe %s, %s updates)", source, name, recipe, f"{updates:,}")
        return Trained.parse(content_of(name, folder), name)
    path = Path(source)
    if path.is_dir():
        raise ConfigError(
            f"{source}: a folder; write its run's network by `degrade export --weights`, and name the file"
        )
    content = read_bytes(path)
    if content is None:
        raise ConfigError(
            f"{source}: neither a file nor a trained network that comes with degrade; {there_are(known)}"
        )
    return Trained.parse(content, str(source))


def load(source: str | Path, *, trusted: bool = False) -> nn.Module:
    """A trained network in eval mode, on the CPU.

    Its input is float32 N x 3 x S x S, the mean training image already subtracted (`classifier` does that); S is 32,
    or what `data.pixels` of its recipe says, 16 for the short recipe. Its output is float32 N x classes, logits.

    Args:
        source: the name of a network that comes with degrade, such as `plain-56-short`, or the path of a file that
            `degrade export --weights` wrote. Hashes are checked. `plain-56` is the network of the paper's recipe;
            while there is none, that of the recipe with the most updates, and a warning is logged that says so.
        trusted: whether code that the file names may be called: norms, activations and families of one's own, which
            are not in it. Otherwise only PyTorch's and what was registered here may.

    Raises:
        ConfigError: there is neither; the message lists the names that there are.
        RunError: the file is damaged, or names other code.
        RunFileError: it cannot be read just now.
    """
    return replace(trained(source), trusted=trusted).network()


def classifier(source: str | Path, *, trusted: bool = False) -> Classifier:
    """A trained network together with its mean image, in eval mode, on the CPU: from pixels to logits.

    Args:
        source: as `load` takes it, and so `trusted`.
        trusted: see `load`.

    Raises:
        ConfigError, RunError, RunFileError: as `load` does.
    """
    return replace(trained(source), trusted=trusted).classifier()
