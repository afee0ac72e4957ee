"""Activation checkpointing: keep a few activations of the forward pass and compute the rest again when needed.

What enters each segment of blocks is kept, which takes less memory; a training step costs one more forward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

#: Number of blocks in a segment, whose activations are alive at once.
SEGMENT = 8


def recomputed(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Apply blocks one after the other, keeping only what enters each segment of them.

    Batch norm's running statistics are updated once, as without recomputation.

    Args:
        blocks: modules in train mode, each from a tensor to a tensor.
        x: the tensor that enters the first.
    """
    for start in range(0, len(blocks), SEGMENT):
        segment = nn.Sequential(*blocks[start : start + SEGMENT])
        x = checkpoint(
            segment,
            x,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in the network is random
            context_fn=partial(_contexts, segment),
        )
    return x


def _contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the forward pass and of its repetition."""
    return nullcontext(), _without_statistics(segment)


@contextmanager
def _without_statistics(segment: nn.Module) -> Iterator[None]:
    """Let batch norm normalise by the batch and leave its running statistics as they are."""
    norms = [module for module in segment.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
