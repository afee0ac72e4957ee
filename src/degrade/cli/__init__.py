"""The command line: thin, and the only place that knows exit codes."""

from degrade.cli.commands import entry_point, main

__all__ = ["entry_point", "main"]
