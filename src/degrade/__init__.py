"""degrade reproduces the degradation problem of deep plain networks, and its mending by identity shortcuts."""

__version__ = "0.1.0"
