"""Training steps and evaluation as CUDA graphs, which are recorded once and then replayed.

A step of these small networks is many small kernels, and a graph launches them all at once. It reads and writes fixed
places in memory: the epoch's draw, the place in it and the rate are tensors on the device, as weights, momentum and
sums are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from degrade.config import Experiment
from degrade.data import Batches
from degrade.errors import ConfigError
from degrade.models import build_model
from degrade.training.engine import Engine

Body = Callable[[], None]

#: Number of runs before recording, in which libraries choose their algorithms and torch.compile compiles.
WARM_UP = 3


def cuda_graph(body: Body) -> Body:
    """Run `body` a few times, record the kernels that it launches, and return a function that launches them again."""
    here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            body()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay


class GraphEngine(Engine):
    """An engine that does the same arithmetic as its parent by replaying graphs.

    Its name is `graph` or `compiled-graph`. `record`, which is replaced in tests, makes a function that replays
    another one, and may run that several times before.
    """

    def __init__(
        self,
        model: nn.Module,
        experiment: Experiment,
        *,
        device: torch.device,
        precision: str,
        name: str,
        record: Callable[[Body], Body] = cuda_graph,
    ) -> None:
        super().__init__(model, experiment, device=device, precision=precision, name=name)
        self._record = record
        self._recorded: dict[Any, Body] = {}
        self._start = torch.zeros((), dtype=torch.int64, device=device)
        self._lr = torch.zeros((), device=device)

    def train(self, batches: Batches, iteration: int, lr: float) -> None:
        """Make the update of one iteration, counted from 1; `batches` must be the same in every call."""
        places = batches.prepare(iteration)
        size = places.stop - places.start
        self._start.fill_(places.start)
        self._lr.fill_(lr)
        self._replay(("train", size), lambda: self.step(*batches.at(self._places(size)), self._lr))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state)
        self._recorded.clear()  # the optimizer has new tensors now

    def _evaluate_places(self, pixels: Tensor, labels: Tensor, mean: Tensor, places: Any) -> None:
        evaluate, size = super()._evaluate_places, places.stop - places.start
        self._start.fill_(places.start)
        key = "evaluate", pixels.data_ptr(), size
        self._replay(key, lambda: evaluate(pixels, labels, mean, self._places(size)))

    def _places(self, size: int) -> Tensor:
        return self._start + torch.arange(size, device=self.device)

    def _replay(self, key: Any, body: Body) -> None:
        if key not in self._recorded:
            with self._unchanged():
                self._recorded[key] = self._record(body)
        self._recorded[key]()

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Put back weights, statistics, optimizer and sums, all in place, after what recording did to them."""
        sums = (self.loss_sum, self.wrong, *self._evaluated)
        mutable = (*self.model.state_dict().values(), *self._optimizer_state(), *sums)
        kept = [(tensor, tensor.clone()) for tensor in mutable]
        yield
        with torch.no_grad():
            for own in self._optimizer_state():
                own.zero_()  # an optimizer that had made no step had no state, which begins with zeros
            for tensor, before in kept:
                tensor.copy_(before)

    def _optimizer_state(self) -> list[Tensor]:
        """Momenta and counts of steps; `optimizers.CAPTURABLE` names the optimizers that have no other state."""
        return [own for state in self.optimizer.state.values() for own in state.values() if isinstance(own, Tensor)]


def new_engine(experiment: Experiment, *, device: torch.device, precision: str, name: str) -> Engine:
    """An engine of an experiment's network, whose weights are those that the seed draws.

    Its name is `eager`, `compiled`, `graph` or `compiled-graph`.
    """
    model = build_model(experiment.model, generator=torch.Generator().manual_seed(experiment.seed))
    if experiment.runtime.recompute and not hasattr(model, "recompute"):
        raise ConfigError(
            f"runtime.recompute=true: the network {experiment.model.family} has no such part; leave it out"
        )
    model.recompute = experiment.runtime.recompute
    kind = GraphEngine if name.endswith("graph") else Engine
    return kind(model, experiment, device=device, precision=precision, name=name)
