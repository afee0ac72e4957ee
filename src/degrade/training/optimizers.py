"""Optimizers by name, each over a network's parameters in two groups: batch norm's, and the rest."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from degrade.config import OptimConfig
from degrade.config.registry import chosen
from degrade.errors import ConfigError

Groups = list[dict[str, Any]]

#: Optimizers whose state is zeros before the first step and who read their rate on the device, so that a CUDA graph
#: can hold their step.
CAPTURABLE = ("sgd", "adamw")


def optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that `config.name` names; batch norm's parameters decay if `decay_norm` is set.

    Raises:
        ConfigError: there is none of this name, or it cannot be made of parameters, rate and decay alone.
    """
    norm = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    ids = {id(p) for p in norm}
    rest = [p for p in model.parameters() if id(p) not in ids]
    decay = config.weight_decay
    groups = [
        {"params": rest, "weight_decay": decay},
        {"params": norm, "weight_decay": decay if config.decay_norm else 0.0},
    ]
    make = chosen("optim.name", config.name, OPTIMIZERS)
    kind = getattr(make, "func", make)  # a call with arguments of its own is a partial one
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
        make = _of_class(kind, make, config)
    try:
        made = make([group for group in groups if group["params"]], config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"optim.name={config.name}: cannot be made ({error})") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError(
            f"optim.name={config.name}: gives a {type(made).__name__}, which is no torch.optim.Optimizer"
        )
    return made


def _of_class(
    kind: type[torch.optim.Optimizer], make: Callable[..., Any], config: OptimConfig
) -> Callable[[Groups, OptimConfig], Any]:
    """Makes an optimizer of a class, which has its own defaults for all but rate, decay and what its call gives."""
    if taken := {"lr", "weight_decay"} & set(getattr(make, "keywords", ())):
        raise ConfigError(f"optim.name={config.name}: optim.{taken.pop()} sets this; leave it out here")
    if config.weight_decay and "weight_decay" not in inspect.signature(kind).parameters:
        raise ConfigError(f"optim.name={config.name}: it has no weight decay; write optim.weight_decay=0")
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(f"optim.name={config.name}: it takes several looks at a batch; name one that takes one")
    return lambda groups, own: make(groups, lr=own.lr)


def _fused(groups: Groups) -> bool:
    """Whether all is on CUDA, where fused optimizers read their rate on the device; they exist there alone."""
    return all(p.device.type == "cuda" for group in groups for p in group["params"])


def sgd(groups: Groups, config: OptimConfig) -> torch.optim.SGD:
    """Stochastic gradient descent (paper, section 3.4)."""
    fused = _fused(groups)
    momentum, nesterov = config.momentum, config.nesterov
    return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, nesterov=nesterov, foreach=not fused, fused=fused)


def adamw(groups: Groups, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with PyTorch's momenta and epsilon."""
    fused = _fused(groups)
    return torch.optim.AdamW(groups, lr=config.lr, foreach=not fused, fused=fused, capturable=fused)


#: Makes what `optim.name` names, from groups of parameters with their decay, and the settings.
OPTIMIZERS: dict[str, Callable[[Groups, OptimConfig], torch.optim.Optimizer]] = {"sgd": sgd, "adamw": adamw}
