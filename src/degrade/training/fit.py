"""The training loop, which yields a row of metrics at every measurement and knows nothing of files or bars."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from degrade.config import Experiment
from degrade.data import Batches, ImageSet
from degrade.errors import ConfigError
from degrade.metrics import Metrics
from degrade.training.agreement import disagreement
from degrade.training.choice import choose_precision
from degrade.training.device import choose_device, choose_engine
from degrade.training.engine import Sums
from degrade.training.graph import new_engine
from degrade.training.peaks import wait
from degrade.training.schedule import WARMUP_WINDOW, scheduled_rate

#: What changes along a training besides its engine and batches; a checkpoint names it without the underscore.
_STATE = (
    *("iteration", "diverged", "warming", "recorded", "_last_lr"),
    *("_images", "_warmup_wrong", "_warmup_images", "_train_seconds", "_seconds"),
)


@dataclass(frozen=True)
class Evaluation:
    """Loss and errors of one pass over images. Errors are fractions; NaN for a class without images."""

    loss: float
    error: float
    by_class: list[float]


class Training:
    """One network while it is trained: all that changes, and the settings by which it changes.

    Args:
        experiment: what to train.
        images: what to train on.
        tick: called with the number of images after each evaluated batch; what it raises ends the evaluation,
            which a later `fit` begins again.
        precision: that of the run's last session, which `runtime.precision=auto` keeps; None for a new run.

    Raises:
        ConfigError: there is no such device, or the network has too few outputs for the images' classes.
    """

    def __init__(
        self,
        experiment: Experiment,
        images: ImageSet,
        *,
        tick: Callable[[int], object] | None = None,
        precision: str | None = None,
    ) -> None:
        if len(images.classes) > experiment.model.classes:
            raise ConfigError(
                f"model.classes={experiment.model.classes}: the images have {len(images.classes)} classes; "
                f"set model.classes={len(images.classes)}"
            )
        self.experiment = experiment
        self.images = images
        self.tick = tick
        device = choose_device(experiment.runtime.device)
        precision = choose_precision(experiment.runtime.precision, device, before=precision)
        iterations, optimizer = experiment.recipe.iterations, experiment.optim.name
        name = choose_engine(experiment.runtime.engine, device, iterations, optimizer=optimizer)
        self.engine = new_engine(experiment, device=device, precision=precision, name=name)
        self.batches = Batches(
            images,
            batch_size=experiment.recipe.batch_size,
            augment=experiment.data.augment,
            seed=experiment.seed,
            device=device,
        )
        self.test = (images.test_images.to(device), images.test_labels.to(device))
        self.iteration = 0
        self.warming = experiment.recipe.warms_up(experiment.model.depth)
        self.diverged = False
        self.recorded = 0
        """Iteration of the last row."""
        self._last_lr = self.lr
        self._images = 0  # images trained on since the last row
        # Where wrong answers and images stood at the last look at warming up, counted from the last row.
        self._warmup_wrong = 0
        self._warmup_images = 0
        self._train_seconds = 0.0  # since the last row
        self._seconds = 0.0

    def check_engine(self) -> str | None:
        """Put an eager engine in the place of another one that cannot be trusted, and return the reason, if any.

        Both make the next updates and an evaluation, on copies of the weights. A graph that cannot be recorded is a
        reason too.
        """
        if self.engine.name == "eager":
            return None
        engine, kept = self.engine, copy.deepcopy(self.engine.state_dict())
        reason = disagreement(
            *(engine, self.experiment, kept),
            batches=self.batches,
            iteration=self.iteration,
            lr=self.lr,
            test=self.test,
        )
        if reason is not None:
            self.engine = new_engine(self.experiment, device=engine.device, precision=engine.precision, name="eager")
        self.engine.load_state_dict(kept)
        return reason

    @property
    def finished(self) -> bool:
        """Whether every update is made and every row is given, or training diverged."""
        done = self.iteration >= self.experiment.recipe.iterations
        return self.diverged or (done and self.recorded == self.iteration)

    @property
    def lr(self) -> float:
        """The rate of the next update."""
        base = self.experiment.optim.lr
        return scheduled_rate(self.iteration + 1, self.experiment.recipe, base=base, warming=self.warming)

    def step(self) -> None:
        """Make one update."""
        started = time.perf_counter()
        self._last_lr = self.lr
        self.engine.train(self.batches, self.iteration + 1, self._last_lr)
        self.iteration += 1
        self._images += self.batches.size(self.iteration)
        if self.warming and self.iteration % WARMUP_WINDOW == 0:
            self._look_at_warming()
        elapsed = time.perf_counter() - started
        self._train_seconds += elapsed
        self._seconds += elapsed

    def measure(self) -> Metrics | None:
        """The row due at this iteration, or None if none is."""
        config = self.experiment
        eval_every = config.eval.every or self.batches.per_epoch
        evaluates, cleans = self._due(eval_every), self._due(config.eval.clean_every)
        if self.recorded == self.iteration or not (evaluates or cleans or self._due(config.log.every)):
            return None
        started = time.perf_counter()
        if self.engine.device.type != "cpu":
            wait(self.engine.device)  # updates still under way belong to training's time
            self._train_seconds += time.perf_counter() - started
        wrong = int(self.engine.wrong)
        train_loss, train_error = float(self.engine.loss_sum) / self._images, wrong / self._images
        self.diverged = not math.isfinite(train_loss)
        test_loss = test_error = clean_error = batch_error = None
        if evaluates and not self.diverged:
            test = self.evaluate(*self.test)
            test_loss, test_error = test.loss, test.error
            self.diverged = not math.isfinite(test_loss)  # the last update may have made it diverge
        if cleans and not self.diverged:
            clean_error = batch_error = self.evaluate(self.batches.pixels, self.batches.labels).error
            if self.experiment.model.batch_norm:  # without batch norm the two errors are the same
                batch_error = self.evaluate_batches(batch_statistics=True).error
        self._seconds += time.perf_counter() - started
        row = Metrics(
            iteration=self.iteration,
            epoch=self.iteration / self.batches.per_epoch,
            lr=self._last_lr,
            train_loss=train_loss,
            train_error=train_error,
            train_error_clean=clean_error,
            train_error_batch=batch_error,
            test_loss=test_loss,
            test_error=test_error,
            images_per_second=self._images / self._train_seconds,
            seconds=self._seconds,
        )
        self.engine.loss_sum.zero_()
        self.engine.wrong.zero_()
        self.recorded = self.iteration
        self._warmup_wrong -= wrong
        self._warmup_images -= self._images
        self._images = 0
        self._train_seconds = 0.0
        return row

    def evaluate(self, images: Tensor, labels: Tensor) -> Evaluation:
        """Evaluate as the network stands, in eval mode, with running statistics, un-augmented.

        Args:
            images: uint8 N x 3 x H x W, on the device.
            labels: int64 N.
        """
        return _evaluation(self.engine.evaluate(images, labels, self.batches.mean, tick=self.tick))

    def evaluate_batches(
        self, batches: Batches | None = None, *, batch_statistics: bool, augmented: bool = False
    ) -> Evaluation:
        """Evaluate as the network stands on all images of some batches, drawn as for the first epoch of training.

        The result depends on the weights and the experiment alone, and neither weights nor running statistics change.
        The order matters to batch norm: images in a folder are sorted by class, and classes differ in statistics.

        Args:
            batches: the batches; None means those of the training images.
            batch_statistics: whether batch norm takes each batch's own statistics instead of the running ones.
            augmented: whether that epoch's crops and flips are applied.
        """
        epoch = (self.batches if batches is None else batches).epoch(0, augment=augmented)
        sums = self.engine.evaluate_batches(epoch, batch_statistics=batch_statistics, tick=self.tick)
        return _evaluation(sums)

    def state_dict(self) -> dict[str, Any]:
        """All that a training needs to resume exactly; batches follow from seed and iteration."""
        own = {name.lstrip("_"): getattr(self, name) for name in _STATE}
        return {"engine": self.engine.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.engine.load_state_dict(state["engine"])
        for name in _STATE:
            setattr(self, name, state[name.lstrip("_")])

    def _due(self, every: int | None) -> bool:
        """Whether something that is done at the end and every `every` iterations, unless that is None, is due now."""
        at_end = self.iteration == self.experiment.recipe.iterations
        return at_end or (every is not None and self.iteration % every == 0)

    def _look_at_warming(self) -> None:
        """End warming up once training error over the last window is low enough; it never begins again."""
        wrong, images = int(self.engine.wrong), self._images
        error = (wrong - self._warmup_wrong) / (images - self._warmup_images)
        self._warmup_wrong, self._warmup_images = wrong, images
        self.warming = error >= self.experiment.recipe.warmup_error


def _evaluation(sums: Sums) -> Evaluation:
    wrong, seen = sums.wrong.tolist(), sums.seen.tolist()
    by_class = [w / n if n else math.nan for w, n in zip(wrong, seen, strict=True)]
    return Evaluation(float(sums.loss) / sum(seen), sum(wrong) / sum(seen), by_class)


def fit(training: Training, *, after_step: Callable[[Training], None] | None = None) -> Iterator[Metrics]:
    """Train to the end, or until it diverges, from wherever `training` stands.

    Args:
        training: the training, which changes in place and is consistent whenever `after_step` is called or a row is
            given.
        after_step: called after each update; what it raises ends the loop, which another `fit` can go on with.

    Yields:
        A row of metrics at every measurement.
    """
    while True:
        row = training.measure()
        if row is not None:
            yield row
        if training.finished:
            return
        training.step()
        if after_step is not None:
            after_step(training)
