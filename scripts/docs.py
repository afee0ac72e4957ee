"""What mkdocs calls as it builds the documentation: pages made from the code, pictures from outputs/reference."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from degrade.config import schema
from degrade.config.setting import Setting
from degrade.config.text import launcher_settings

TOP = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the pictures that the pages show."""
    for uri, page in {"reference/commands.md": commands(), "reference/settings.md": settings()}.items():
        files.append(File.generated(config, uri, content=page))
    for picture in sorted([*TOP.glob("outputs/reference/**/*.png"), *TOP.glob("outputs/reference/**/*.svg")]):
        files.append(File.generated(config, str(picture.relative_to(TOP)), abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pictures lie beside docs/ in the repository and below it in the site."""
    return re.sub(r"\]\(\.\./((?:\.\./)*outputs/)", r"](\1", markdown)


def commands() -> str:
    """Every command with its options, as Typer writes them."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "commands.md"
        typer = [sys.executable, "-m", "typer", "degrade.cli.commands", "utils", "docs", "--name", "degrade"]
        subprocess.run([*typer, "--title", "Commands", "--output", str(page)], check=True, capture_output=True)
        return page.read_text()


def settings() -> str:
    """Every setting, with what it says about itself where it is declared."""
    page = [
        "# Settings\n",
        "A setting is given on the command line as `KEY=VALUE`, such as `degrade train optim.lr=0.05`; `--with` sets "
        "modules, and `degrade probe construct` model.start. The defaults "
        "are the paper's. `degrade settings` prints this page, and "
        "`degrade train --dry-run` prints all of them as they stand after your command.\n",
    ]
    section = None
    for key, own in schema.settings().items():
        group = key[: key.find(".") + 1]
        if group != section:
            section = group
            page.append(f"## {group}*\n" if group else "## The experiment\n")
        page.append(f"### `{key}`\n")
        page.append(_about(own, schema.descriptions()[key]))
    page.append(
        "## launcher.*\n\nThe settings of the launchers do not change which experiment a run is. They decide how "
        "many threads it has, and so how its numbers are rounded; environment.json holds that number.\n"
    )
    for name, key, default, said in launcher_settings():
        page.append(f"### `{key}` of `launcher={name}`\n\n{said}\n\n- Default: `{_yaml(default)}`\n")
    return "\n".join(page)


def _about(own: Setting, description: str) -> str:
    lines = [f"{description}\n", f"- Default: `{_yaml(own.default)}`"]
    if own.choices:
        lines.append(f"- Choices: {', '.join(f'`{choice}`' for choice in own.choices)}")
    if own.families:
        lines.append(f"- Families: {', '.join(own.families)}")
    return "\n".join([*lines, f"- {own.kind}\n"])


def _yaml(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
