"""The trained networks that come with degrade: an index by name beside a safetensors file for each.

They lie in `outputs/reference/networks` of a checkout, and inside the package in a wheel; `scripts/networks` writes
both from records. This module does not import torch.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from degrade.errors import ConfigError, RunError
from degrade.files import read_bytes, replace_text

#: The index, in the folder of the networks.
INDEX = "index.json"

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """What the index says of a network.

    Attributes:
        name: such as `plain-56`, which was trained by the paper's recipe, or `plain-56-short`.
        file: the name of its file, beside the index.
        sha256: SHA-256 of that file.
        recipe: the name of its recipe.
        iterations: the number of its updates.
        seed: the seed of its run.
        train_error, train_error_clean, train_error_batch, test_error: its last errors, fractions; None where they
            were not measured.
        record: experiment, variant and seed of its record, as below `outputs`.
    """

    name: str
    file: str
    sha256: str
    recipe: str
    iterations: int
    seed: int
    train_error: float | None
    train_error_clean: float | None
    train_error_batch: float | None
    test_error: float | None
    record: str


def networks_dir() -> Path:
    """The folder of the networks: inside the package in a wheel, below `outputs/reference` in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "networks"
    return inside if inside.is_dir() else package.parents[1] / "outputs" / "reference" / "networks"


def networks(folder: Path | None = None) -> dict[str, Entry]:
    """The trained networks that come with degrade, by name.

    Args:
        folder: where the index is, if not where degrade has its own.

    Raises:
        RunError: the index is damaged.
        RunFileError: it cannot be read just now.
    """
    path = (folder or networks_dir()) / INDEX
    content = read_bytes(path)
    if content is None:
        return {}
    known = {own.name for own in fields(Entry)}
    try:
        held = json.loads(content)["networks"]
        return {
            name: Entry(name=name, **{key: value for key, value in own.items() if key in known})
            for name, own in held.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: reinstall degrade, or `git checkout` the file") from error


def meant(name: str, known: dict[str, Entry]) -> str | None:
    """The name of the network that a name means; None if there is none.

    A name without a recipe, such as `plain-56`, is that of the paper's recipe. While the index lacks it, of the
    networks that are called so but for their recipe the one with the most updates is meant, such as `plain-56-short`.
    """
    if name in known:
        return name
    network, comma, changed = name.partition(",")
    others = [own for own in known.values() if own.name == f"{network}-{own.recipe}{comma}{changed}"]
    return max(others, key=lambda own: own.iterations).name if others else None


def content_of(name: str, folder: Path | None = None) -> bytes:
    """The content of a network's file, checked by its hash.

    Raises:
        ConfigError: the index lacks the name; the message lists the names that there are.
        RunError: the file is missing, or its hash differs.
        RunFileError: it cannot be read just now.
    """
    folder = folder or networks_dir()
    known = networks(folder)
    if name not in known:
        raise ConfigError(f"{name}: no trained network of this name comes with degrade; {there_are(known)}")
    path = folder / known[name].file
    content = read_bytes(path)
    if content is None:
        raise RunError(f"{path} is missing: reinstall degrade, or `git checkout` the file")
    found = hashlib.sha256(content).hexdigest()
    if found != known[name].sha256:
        expected = known[name].sha256
        raise RunError(
            f"{path} is damaged (SHA-256 {found[:12]}..., in the index {expected[:12]}...): "
            "reinstall degrade, or `git checkout` the file"
        )
    return content


def there_are(known: dict[str, Entry]) -> str:
    """The names of networks, for a message."""
    return f"there are {', '.join(known)}" if known else "this installation has none"


def add(entry: Entry, folder: Path) -> None:
    """Write an entry into the index of a folder, in which an earlier one of its name is replaced."""
    entries = {**networks(folder), entry.name: entry}
    listed = {
        name: {key: value for key, value in asdict(own).items() if key != "name"}
        for name, own in sorted(entries.items())
    }
    text = json.dumps({"schema_version": SCHEMA_VERSION, "networks": listed}, indent=1)
    replace_text(folder / INDEX, text + "\n")
