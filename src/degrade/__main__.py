"""`python -m degrade` is `degrade`."""

from degrade.cli import entry_point

entry_point()
