"""One optimisation step and one evaluation pass, by the same code on CPU and CUDA.

Metrics are summed on the device, and nothing here waits for it.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from degrade.config import Experiment
from degrade.data import Batches
from degrade.data.batches import single_view
from degrade.training.optimizers import optimizer

#: PyTorch's name for each value of `runtime.memory_format`.
MEMORY_FORMATS = {"auto": "channels_last", "channels_last": "channels_last", "contiguous": "contiguous_format"}


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of returning it to the kernel after every large tensor.

    On 2 cores (AVX2, fp32, batch 32) training is then 1.00 to 1.06 times as fast at depth 20, and 1.12 times at depth
    56. Other C libraries, which have no such call, are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-2, 64 << 20)  # M_TOP_PAD


class Sums(NamedTuple):
    """What evaluation adds up, on the device."""

    loss: Tensor
    """float64, or float32 on an Apple GPU, scalar."""
    wrong: Tensor
    """Number of images of each class that were answered wrongly, int64."""
    seen: Tensor
    """Number of images of each class that were seen, int64."""


def sum_dtype(device: torch.device) -> torch.dtype:
    """In what losses are added up; Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Engine:
    """A network and its optimizer on a device.

    Args:
        model: the network; moved to `device`.
        experiment: gives the optimizer, batch sizes, memory format and determinism; the arguments below stand for
            those of its settings that may be `auto`.
        device: where the network runs.
        precision: `fp32` or `bf16` (autocast; weights stay fp32).
        name: `eager` or `compiled`.
    """

    def __init__(
        self, model: nn.Module, experiment: Experiment, *, device: torch.device, precision: str, name: str
    ) -> None:
        runtime = experiment.runtime
        if device.type == "cpu" and not runtime.recompute:
            # A run that recomputes is to take little memory, and keeping freed memory takes a third more: 4,187 MiB
            # instead of 3,154 at depth 1202, at the same speed.
            keep_freed_memory()
        if device.type == "cuda":
            torch.cuda.set_device(device)
            # PyTorch's own default rounds the inputs of convolutions to TF32, 10 bits of mantissa.
            torch.backends.cudnn.allow_tf32 = precision != "fp32"
            torch.backends.cudnn.benchmark = not runtime.deterministic
        self.memory_format = getattr(torch, MEMORY_FORMATS[runtime.memory_format])
        self.model = model.to(device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.device = device
        self.precision = precision
        self.name = name
        self.classes = experiment.model.classes
        self.evaluation_size = experiment.eval.batch_size or (2500 if device.type == "cuda" else 250)
        self.optimizer = optimizer(self.model, experiment.optim)
        self.clip = experiment.optim.clip
        # Batches of other sizes, such as the last of an epoch, are not worth compiling for.
        self._compiled_sizes: set[int] = set()
        if name.startswith("compiled"):
            self._compiled_sizes = {experiment.recipe.batch_size, self.evaluation_size}
            self._compiled = torch.compile(self.model, dynamic=False)
        self.loss_sum = torch.zeros((), dtype=sum_dtype(device), device=device)
        self.wrong = torch.zeros((), dtype=torch.int64, device=device)
        counts = torch.zeros((2, self.classes), dtype=torch.int64, device=device)
        self._evaluated = Sums(torch.zeros_like(self.loss_sum), *counts)
        self._class_ids = torch.arange(self.classes, device=device)

    def train(self, batches: Batches, iteration: int, lr: float) -> None:
        """Make the update of one iteration, counted from 1."""
        images, labels = batches.batch(iteration)
        self.step(images, labels, lr)

    def step(self, images: Tensor, labels: Tensor, lr: float | Tensor) -> None:
        """Make one update; add the batch's loss and errors, measured before it, to `loss_sum` and `wrong`."""
        loss, logits = self.loss(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.update(lr)
        self.count(loss, logits, labels)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in train mode, and the logits."""
        self.model.train()
        logits = self._logits(images)
        return F.cross_entropy(logits, labels), logits

    def update(self, lr: float | Tensor) -> None:
        """Change the weights by the gradients, and drop the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch to the sums."""
        self.loss_sum += loss.detach() * len(labels)
        self.wrong += (logits.detach().argmax(1) != labels).sum()

    @torch.inference_mode()
    def evaluate(
        self, pixels: Tensor, labels: Tensor, mean: Tensor, *, tick: Callable[[int], object] | None = None
    ) -> Sums:
        """Loss and errors in eval mode, un-augmented.

        Args:
            pixels: uint8 N x 3 x H x W, on the device.
            labels: int64 N.
            mean: what to subtract, float32 3 x H x W.
            tick: called with the number of images after each batch; what it raises ends the evaluation.

        Returns:
            Sums over all images, until the next evaluation.
        """
        self._begin_evaluation()
        for start in range(0, len(labels), self.evaluation_size):
            stop = min(start + self.evaluation_size, len(labels))
            self._evaluate_places(pixels, labels, mean, slice(start, stop))
            if tick is not None:
                tick(stop - start)
        return self._evaluated

    @torch.inference_mode()
    def evaluate_batches(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        *,
        batch_statistics: bool,
        tick: Callable[[int], object] | None = None,
    ) -> Sums:
        """Loss and errors on batches as they come, in eval mode, by the eager network, which does not change.

        Args:
            batches: float images, mean subtracted, and int64 labels, on the device.
            batch_statistics: whether batch norm takes each batch's own statistics, as in train mode.
            tick: as for `evaluate`.

        Returns:
            The same as `evaluate`.
        """
        self._begin_evaluation()
        with _own_statistics(self.model) if batch_statistics else contextlib.nullcontext():
            for images, labels in batches:
                # Compiling for these statistics takes longer than an evaluation, and so does recording.
                self._add_evaluated(self._logits(images, eager=True), labels)
                if tick is not None:
                    tick(len(labels))
        return self._evaluated

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and sums, which are all of the engine that a training needs to go on exactly."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss_sum": self.loss_sum,
            "wrong": self.wrong,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        ours, theirs = self.optimizer.defaults, state["optimizer"]
        here = {key: ours[key] for key in ("foreach", "fused", "capturable") if key in ours}
        groups = [group | here for group in theirs["param_groups"]]  # another device may have set these otherwise
        self.optimizer.load_state_dict({**theirs, "param_groups": groups})
        self.loss_sum.copy_(state["loss_sum"])
        self.wrong.copy_(state["wrong"])

    def _begin_evaluation(self) -> None:
        self.model.eval()
        for total in self._evaluated:
            total.zero_()

    def _evaluate_places(self, pixels: Tensor, labels: Tensor, mean: Tensor, places: slice | Tensor) -> None:
        self._add_evaluated(self._logits(single_view(pixels[places], mean)), labels[places])

    def _add_evaluated(self, logits: Tensor, labels: Tensor) -> None:
        total = self._evaluated
        total.loss.add_(F.cross_entropy(logits, labels, reduction="sum"))
        # Not bincount, which waits for a CUDA device and is not deterministic on it.
        by_class = labels[:, None] == self._class_ids
        total.seen.add_(by_class.sum(0))
        total.wrong.add_((by_class & (logits.argmax(1) != labels)[:, None]).sum(0))

    def _logits(self, images: Tensor, *, eager: bool = False) -> Tensor:
        forward = self._compiled if not eager and len(images) in self._compiled_sizes else self.model
        with self._autocast():
            logits: Tensor = forward(images.contiguous(memory_format=self.memory_format))
        return logits.float()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def _own_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norm use each batch's own statistics in eval mode, by setting the running ones aside."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    running = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None  # without them PyTorch uses those of the batch
    try:
        yield
    finally:
        for norm, (mean, variance) in zip(norms, running, strict=True):
            norm.running_mean, norm.running_var = mean, variance
