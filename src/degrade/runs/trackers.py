"""Loggers for trackers of experiments, which keep all runs of one name together: Weights & Biases, MLflow, Trackio.

They are `Logger`s of `runs.loggers`. Each keeps what it is given on this machine, unless the environment variables of
the tool say where to send it, and asks the tool itself which iterations it holds, so that nothing is there twice.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from degrade.config import Experiment
from degrade.metrics import Metrics
from degrade.runs.board import errors, hyperparameters, values


def _name(folder: Path) -> str:
    """A run's name in its tracker: `plain-56/seed-0`."""
    return f"{folder.parent.name}/{folder.name}"


class WeightsAndBiases:
    """Writes a run for Weights & Biases: offline into `RUN/wandb`, to be sent by `wandb sync`.

    WANDB_MODE=online sends it at once. Offline files are written anew whenever the run begins or resumes, since they
    cannot be added to; online the tool says how far the run is. `key` tells the run from all others.
    """

    FOLDER = "wandb"

    def __init__(self, folder: Path, experiment: Experiment, key: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else it reports its own errors even offline
        import wandb

        shutil.rmtree(folder / self.FOLDER, ignore_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", experiment.name),
            name=_name(folder),
            id=key,
            resume="allow",
            dir=folder.resolve(),  # wandb's helper process has a working directory of its own
            mode=None if "WANDB_MODE" in os.environ else "offline",
            reinit="create_new",
            config=hyperparameters(experiment),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def holds(self, iteration: int) -> bool:
        """Whether the tool's server has this iteration, or one after it."""
        return iteration < int(self._run.starting_step)

    def add(self, rows: Sequence[Metrics]) -> None:
        """Log the finite values of rows."""
        for row in rows:
            self._run.log(values(row), step=row.iteration, commit=True)

    def close(self, last: Mapping[str, Any] | None) -> None:
        """Put the last errors of a finished run into the summary, and wait until all is written."""
        if last is not None:
            self._run.summary.update(errors(last))
        self._run.finish(exit_code=0 if last is not None else 1)


class MLflow:
    """Writes a run for MLflow: into `mlflow.db` in the root folder of all records, or to MLFLOW_TRACKING_URI.

    The run's tag `degrade.run` holds its key, which tells it from all others.
    """

    _MOST = 1000  # metrics that MLflow takes at once

    def __init__(self, folder: Path, experiment: Experiment, key: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else it tells its authors what is used
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else training waits minutes for a dead server
        from mlflow import MlflowClient

        root = folder.resolve().parents[2]
        own = os.environ.get("MLFLOW_TRACKING_URI")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", experiment.name)
        # Runs that begin side by side would all make the tables of a new database, and fail.
        with contextlib.nullcontext() if own else FileLock(root / ".mlflow.lock", timeout=120):
            self._client = MlflowClient(tracking_uri=own or f"sqlite:///{root / 'mlflow.db'}")
            place = self._experiment(name, None if own else (root / "mlflow").as_uri())
        found = self._client.search_runs([place], f"tags.`degrade.run` = '{key}'")
        self._run: str = found[0].info.run_id if found else self._new(place, folder, experiment, key)
        self._client.update_run(self._run, status="RUNNING")
        # The rate is finite in every row.
        self._held = {point.step for point in self._client.get_metric_history(self._run, "lr")}
        self._started: float | None = None

    def _experiment(self, name: str, artifacts: str | None) -> str:
        """The identifier of MLflow's experiment of a name, which is made if there is none."""
        from mlflow import MlflowException

        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # another process has just made it
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _new(self, place: str, folder: Path, experiment: Experiment, key: str) -> str:
        from mlflow.entities import Param

        run = str(self._client.create_run(place, run_name=_name(folder), tags={"degrade.run": key}).info.run_id)
        settings = [Param(name, str(value)) for name, value in hyperparameters(experiment).items()]
        self._client.log_batch(run, params=settings)
        return run

    def holds(self, iteration: int) -> bool:
        """Whether MLflow has a row of this iteration."""
        return iteration in self._held

    def add(self, rows: Sequence[Metrics]) -> None:
        """Log the finite values of rows, at the times at which one session would have measured them."""
        from mlflow.entities import Metric

        seconds = [row.finite("seconds") or 0.0 for row in rows]
        if self._started is None:
            self._started = time.time() - seconds[-1]
        metrics = [
            Metric(tag, value, int(1000 * (self._started + after)), row.iteration)
            for row, after in zip(rows, seconds, strict=True)
            for tag, value in values(row).items()
        ]
        for start in range(0, len(metrics), self._MOST):
            self._client.log_batch(self._run, metrics=metrics[start : start + self._MOST])

    def close(self, last: Mapping[str, Any] | None) -> None:
        """Say what became of the run; all else is written."""
        self._client.set_terminated(self._run, "FINISHED" if last is not None else "KILLED")


class Trackio:
    """Writes a run for Trackio: into its own store, TRACKIO_DIR, which `trackio show` shows.

    TRACKIO_SPACE_ID or TRACKIO_SERVER_URL sends it elsewhere. The run's name ends with its key, which tells it from
    all others, since runs are resumed by name.
    """

    def __init__(self, folder: Path, experiment: Experiment, key: str) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import trackio

        self._run = trackio.init(
            project=experiment.name,
            name=f"{_name(folder)} {key}",
            config=hyperparameters(experiment),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._next = int(self._run._next_step)  # one after the last that the store or the server has
        self._last = self._next - 1

    def holds(self, iteration: int) -> bool:
        """Whether Trackio has this iteration, or one after it."""
        return iteration < self._next

    def add(self, rows: Sequence[Metrics]) -> None:
        """Log the finite values of rows, which a thread writes soon after."""
        for row in rows:
            self._run.log(values(row), step=row.iteration)
            self._last = row.iteration

    def close(self, last: Mapping[str, Any] | None) -> None:  # noqa: ARG002 - the last row has the last errors
        """Wait until all is written.

        Raises:
            OSError: the store lacks what was logged last.
        """
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        trackio.finish()  # the run's own `finish` would be called again, and print, when Python ends
        held = SQLiteStorage.get_max_step_for_run(self._run.project, self._run.name) if self._run._is_local else None
        if self._run._is_local and self._last >= 0 and held != self._last:  # the thread that writes only warns
            raise OSError(f"its store has rows up to iteration {held or 0:,} of {self._last:,}")
