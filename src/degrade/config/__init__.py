"""What an experiment is: documented, validated settings, composed by Hydra from files and shell overrides."""

from degrade.config.compose import (
    Variant,
    compose,
    compose_where_it_can,
    load_config,
    network_matrix,
    untrained_matrix,
    variants,
)
from degrade.config.registry import register
from degrade.config.schema import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    Experiment,
    LogConfig,
    ModelConfig,
    OptimConfig,
    RecipeConfig,
    RuntimeConfig,
)

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "EvalConfig",
    "Experiment",
    "LogConfig",
    "ModelConfig",
    "OptimConfig",
    "RecipeConfig",
    "RuntimeConfig",
    "Variant",
    "compose",
    "compose_where_it_can",
    "load_config",
    "network_matrix",
    "register",
    "untrained_matrix",
    "variants",
]
