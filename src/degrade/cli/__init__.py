"""The command line: thin, and the only place that knows exit codes."""

from degrade.cli.console import entry_point, main

__all__ = ["entry_point", "main"]
