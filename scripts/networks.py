"""Puts the trained networks of finished runs among those that come with degrade, by name, with hash and errors."""

import sys
from pathlib import Path

from degrade.errors import DegradeError
from degrade.runs import find_records
from degrade.runs.library import networks_dir
from degrade.runs.weights import keep


def main(paths: list[str]) -> int:
    """Keep the network of each run at or below the paths."""
    if not paths:
        print("scripts/networks: name the directories of finished runs", file=sys.stderr)
        return 2
    try:
        for record in find_records(map(Path, paths)):
            entry = keep(record, networks_dir())
            print(f"{entry.name}: {entry.file}, SHA-256 {entry.sha256[:12]}..., from {record.path}")
    except DegradeError as error:
        print(f"scripts/networks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
