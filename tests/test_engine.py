"""Engines agree: eager, compiled and replayed steps are the same arithmetic."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from degrade.config import Experiment
from degrade.data import Batches, load_images
from degrade.errors import ConfigError
from degrade.models import build_model
from degrade.runs.train import load_once
from degrade.training import (
    Training,
    checkpoint,
    choose_device,
    choose_engine,
    choose_precision,
    device_name,
    engine,
    fit,
)
from degrade.training.engine import sum_dtype as engine_sum_dtype
from degrade.training.graph import Body, GraphEngine, new_engine
from tests.conftest import Make

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_twice_then_replay(body: Body) -> Body:
    """Does with a body what recording a CUDA graph does: runs it before, and again for each replay."""
    body()
    body()
    return body


def training(experiment: Experiment, *, replayed: bool = False) -> Training:
    """Ready to train on the CPU, its engine's steps recorded by the stand-in if `replayed`."""
    made = Training(experiment, load_once(experiment))
    if replayed:
        model = build_model(experiment.model, generator=torch.Generator().manual_seed(experiment.seed))
        made.engine = GraphEngine(
            model, experiment, device=CPU, precision=made.engine.precision, name="graph", record=run_twice_then_replay
        )
    return made


def losses(of: Training) -> list[float]:
    return [row.train_loss for row in fit(of)]


def assert_same_weights(one: Training, other: Training) -> None:
    theirs = other.engine.model.state_dict()
    for name, value in one.engine.model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def assert_close_while_it_can_be(one: list[float], other: list[float]) -> None:
    """Rounding differs, and training amplifies it: a hundred times in these eight steps."""
    assert one[:2] == pytest.approx(other[:2], rel=1e-5)
    assert one == pytest.approx(other, rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_steps_are_the_eager_ones_bit_for_bit(precision: str, small: Make) -> None:
    """Over ragged batches, epochs, evaluations in batches of two sizes, and whatever recording ran before."""
    settings = ("log.every=1", "eval.batch_size=16", "eval.clean_every=9", "data.pixels=8")
    experiment = small(*settings, f"runtime.precision={precision}")
    eager, replayed = training(experiment), training(experiment, replayed=True)
    rows = [
        [(r.train_loss, r.train_error, r.test_loss, r.train_error_clean, r.train_error_batch) for r in fit(t)]
        for t in (eager, replayed)
    ]
    assert rows[0] == rows[1]
    assert_same_weights(eager, replayed)


def broken(body: Body) -> Body:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def forgetful(body: Body) -> Body:
    """Records nothing, so that a replay changes nothing."""
    body()
    return lambda: None


def doubling(body: Body) -> Body:
    """Makes each update twice."""

    def twice() -> None:
        body()
        body()

    return twice


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (run_twice_then_replay, None),
        (broken, "RuntimeError: operation not permitted when stream is capturing"),
        (forgetful, "its loss differs from the eager one by 1, relatively"),
        (doubling, "its loss differs from the eager one by "),
    ],
)
@pytest.mark.parametrize("at", [0, 3])
def test_an_engine_that_fails_its_trial_leaves_training_to_eager(
    record: Callable[[Body], Body], said: str | None, at: int, small: Make
) -> None:
    experiment = small("log.every=1", "data.pixels=8")
    eager, replayed = training(experiment), training(experiment, replayed=True)
    for _ in range(at):
        eager.step()
        eager.measure()
    replayed.load_state_dict(copy.deepcopy(eager.state_dict()))
    assert isinstance(replayed.engine, GraphEngine)
    replayed.engine._record = record
    reason = replayed.check_engine()
    assert (reason or "").startswith(said or "")
    assert replayed.engine.name == ("graph" if said is None else "eager")
    assert losses(replayed) == losses(eager)
    assert_same_weights(eager, replayed)


@pytest.mark.parametrize("what", ["loss", "first update", "later loss"])
def test_a_trial_names_what_differs(what: str, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = training(small("data.pixels=8", "optim.lr=0.1"), replayed=True)
    own: Any = replayed.engine
    update, evaluate = own.update, own.evaluate
    wrong = {
        "loss": (
            "loss",
            lambda images, labels: (torch.tensor(math.nan, requires_grad=True), torch.zeros(len(labels), 10)),
        ),
        "first update": ("update", lambda lr: update(3 * lr)),
        "later loss": ("evaluate", lambda *arguments: evaluate(*arguments)._replace(loss=torch.tensor(1e6))),
    }
    monkeypatch.setattr(own, *wrong[what])
    assert (replayed.check_engine() or "").startswith(f"its {what} differs from the eager one by ")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["plain", "residual"])
def test_rounding_alone_fails_no_trial(model: str, precision: str, small: Make) -> None:
    """Not even at depth 56, where rounding turns the first update by a third or more."""
    words = (f"model={model}", "model.depth=56", "data.pixels=8", f"runtime.precision={precision}", "optim.lr=0.05")
    replayed = training(small(*words), replayed=True)
    assert replayed.check_engine() is None


def test_replaying_goes_on_from_a_checkpoint_as_if_never_stopped(small: Make) -> None:
    experiment = small("log.every=1", "model.family=residual", "data.pixels=8")
    whole, first, second = (training(experiment, replayed=True) for _ in range(3))
    expected = losses(whole)
    for _ in range(7):
        first.step()
        first.measure()
    second.step()  # recorded before it takes up the checkpoint
    second.load_state_dict(first.state_dict())
    assert losses(second) == expected[7:]
    assert_same_weights(whole, second)


def test_a_recorded_step_reads_no_value_and_allocates_shapes_known_beforehand(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device there are no values: whatever would wait for a GPU, in Python or below, fails.

    The optimizer is left out: the one that reads its rate on the device exists for CUDA alone.
    """
    experiment = small()
    images = load_once(experiment)
    meta = torch.device("meta")
    batches = Batches(images, batch_size=16, augment=True, seed=0, device=meta)
    engine = GraphEngine(
        build_model(experiment.model),
        experiment,
        device=meta,
        precision="fp32",
        name="graph",
        record=lambda body: body,
    )
    monkeypatch.setattr(engine.optimizer, "step", lambda: None)
    for iteration in (1, 2, 6, 7):  # the sixth is ragged, the seventh begins an epoch
        engine.train(batches, iteration, 0.1)
    total = engine.evaluate(batches.pixels, batches.labels, batches.mean)
    assert [t.shape for t in total] == [(), (10,), (10,)]
    with pytest.raises(RuntimeError, match="meta"):
        int(engine.wrong)


class NoFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses what Apple's GPUs refuse: tensors of 64 bit floats."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            assert not isinstance(tensor, torch.Tensor) or tensor.dtype not in (torch.float64, torch.complex128), func
        return result


def test_a_step_and_its_evaluations_need_no_float64_where_there_is_none(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for an Apple GPU, which no machine at hand has."""
    experiment = small("data.pixels=8", "optim.clip=1", "log.every=1", "model.family=residual", "eval.clean_every=9")
    expected = losses(training(experiment))
    with pytest.raises(AssertionError, match="zeros"), NoFloat64():  # type: ignore[no-untyped-call]
        training(experiment)
    monkeypatch.setattr(engine, "sum_dtype", lambda _: engine_sum_dtype(torch.device("mps")))
    with NoFloat64():  # type: ignore[no-untyped-call]
        assert losses(training(experiment)) == pytest.approx(expected, rel=1e-6)


def test_an_apple_gpu_trains_in_fp32_by_the_eager_engine_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match="PyTorch sees no Apple GPU on this machine; use auto or cpu"):
            choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device = choose_device("mps")
    assert (device.type, choose_device("auto").type != "mps") == ("mps", True)
    assert (choose_precision("auto", device), choose_engine("auto", device, 64_000)) == ("fp32", "eager")
    assert "not verified" in device_name(device)
    with pytest.raises(ConfigError, match="use auto or fp32"):
        choose_precision("bf16", device)
    with pytest.raises(ConfigError, match="use auto or eager"):
        choose_engine("graph", device, 64_000)


def test_the_compiled_engine_passes_its_trial_and_its_losses_are_the_eager_ones_step_by_step(small: Make) -> None:
    settings = ("log.every=1", "recipe.iterations=8", "recipe.milestones=[4]", "runtime.precision=fp32")
    eager = losses(training(small(*settings)))
    compiled = training(small(*settings, "runtime.engine=compiled"))
    assert compiled.check_engine() is None
    assert compiled.engine.name == "compiled"
    assert len(eager) == 8
    assert_close_while_it_can_be(losses(compiled), eager)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_batch_norm_addition_and_relu_are_those_of_pytorch(precision: str, small: Make) -> None:
    """Compiled, logits, gradients and running statistics are the eager network's but for rounding."""
    experiment = small("model=residual", "model.depth=8")
    draw, size = torch.Generator().manual_seed(0), experiment.recipe.batch_size
    images, labels = torch.randn(size, 3, 16, 16, generator=draw), torch.randint(10, (size,), generator=draw)

    def step(name: str, precision: str) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        made = new_engine(experiment, device=CPU, precision=precision, name=name)
        loss, logits = made.loss(images, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {name: weight.grad for name, weight in made.model.named_parameters() if weight.grad is not None}
        statistics = {name: own.float() for name, own in made.model.named_buffers()}
        return logits.detach(), gradients, statistics

    (logits, gradients, statistics), eager = step("compiled", precision), step("eager", precision)
    # In bf16 each of two results rounds in its own way, so both are held against the same in fp32.
    exact = step("eager", "fp32")
    assert set(gradients) == set(exact[1])
    assert {name.rpartition(".")[2] for name in statistics} == {"running_mean", "running_var", "num_batches_tracked"}

    def far(found: Tensor, ours: Tensor) -> float:
        return float((found - ours).norm() / ours.norm())

    for found, usual, ours in [
        (logits, eager[0], exact[0]),
        *((gradients[name], eager[1][name], exact[1][name]) for name in gradients),
        *((statistics[name], eager[2][name], exact[2][name]) for name in statistics),
    ]:
        assert far(found, ours) <= 2 * far(usual, ours) + 1e-4


def test_memory_format_changes_nothing_but_speed(small: Make) -> None:
    settings = ("log.every=1", "recipe.iterations=8", "recipe.milestones=[4]", "runtime.precision=fp32")
    last, first = (training(small(*settings, f"runtime.memory_format={f}")) for f in ("channels_last", "contiguous"))
    assert_close_while_it_can_be(losses(last), losses(first))
    assert last.engine.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert first.engine.model.conv1.weight.is_contiguous()


def test_bf16_ends_where_fp32_ends_within_the_noise_of_seeds(small: Make) -> None:
    """Final clean training errors over three seeds, on images that a small network can learn a little of."""
    recipe = ["recipe.milestones=[18]", "eval.every=24", "data.train_limit=80", "data.pixels=8"]
    ends: dict[str, list[float]] = {}
    for precision in ("fp32", "bf16"):
        for seed in range(3):
            *_, last = fit(training(small(*recipe, f"runtime.precision={precision}", f"seed={seed}")))
            assert last.train_error_clean is not None
            ends.setdefault(precision, []).append(last.train_error_clean)
    mean = {precision: sum(errors) / 3 for precision, errors in ends.items()}
    variance = sum(sum((e - mean[p]) ** 2 for e in errors) / 2 for p, errors in ends.items()) / 2
    assert max(mean.values()) < 0.85  # something was learnt
    assert abs(mean["fp32"] - mean["bf16"]) < 4 * math.sqrt(variance * 2 / 3) + 0.02


def test_engines_are_chosen_by_device_and_length_of_run() -> None:
    assert [choose_engine("auto", CPU, n) for n in (24, 64_000)] == ["eager", "eager"]
    assert [choose_engine("auto", CUDA, n) for n in (24, 64_000)] == ["graph", "compiled-graph"]
    assert choose_engine("compiled", CPU, 24) == "compiled"
    assert choose_engine("eager", CUDA, 64_000) == "eager"
    with pytest.raises(ConfigError, match=r"runtime.engine=compiled-graph: a CUDA graph needs a CUDA device"):
        choose_engine("compiled-graph", CPU, 24)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("engine", ["eager", "graph", "compiled-graph"])
def test_cuda_losses_equal_those_of_the_cpu_over_the_first_steps(engine: str, small: Make) -> None:
    experiment = small("runtime.precision=fp32", "log.every=1", "recipe.iterations=20")
    runs = []
    for device, name in (("cpu", "eager"), ("cuda", engine)):
        there = replace(experiment, runtime=replace(experiment.runtime, device=device, engine=name))
        runs.append(losses(training(there)))
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("optimizer", [["optim.name=sgd"], ["optim.name=adamw", "optim.lr=0.001"]])
def test_cuda_graph_gives_the_eager_losses_and_resumes(optimizer: list[str], small: Make) -> None:
    settings = ("runtime.device=cuda", "runtime.deterministic=true", "log.every=1", "eval.batch_size=16")
    experiment = small(*settings, *optimizer)
    runs = [Training(_with(experiment, engine=name), load_images(experiment.data)) for name in ("eager", "graph")]
    rows = [[(r.train_loss, r.test_loss, r.train_error_clean, r.train_error_batch) for r in fit(run)] for run in runs]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    first, second = (Training(_with(experiment, engine="graph"), load_images(experiment.data)) for _ in range(2))
    for _ in range(7):
        first.step()
        first.measure()
    second.step()
    second.load_state_dict(first.state_dict())
    assert [r.train_loss for r in fit(second)] == pytest.approx([row[0] for row in rows[1][7:]], rel=1e-4)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("engine", ["graph", "compiled-graph"])
def test_cuda_steps_wait_for_nothing(engine: str, small: Make) -> None:
    experiment = _with(small("runtime.device=cuda", "recipe.iterations=100", "recipe.milestones=[50]"), engine=engine)
    ours = Training(experiment, load_images(experiment.data))
    for _ in range(6):  # both sizes recorded, one epoch drawn
        ours.step()
    ours.batches.prepare(7)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            ours.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("optimizer", [["optim.name=sgd"], ["optim.name=adamw", "optim.lr=0.001"]])
def test_a_checkpoint_moves_between_devices(
    optimizer: list[str], small: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    experiment = small("recipe.iterations=12", "recipe.milestones=[]", "runtime.precision=fp32", *optimizer)
    there, here = (_with(experiment, device=device) for device in ("cuda", "cpu"))
    first, second = (Training(e, load_images(e.data)) for e in (there, here))
    first.step()
    checkpoint.save(folder, first.state_dict())
    second.load_state_dict(checkpoint.load(folder / checkpoint.NAME, CPU))
    second.step()
    first.step()
    for p, q in zip(first.engine.model.parameters(), second.engine.model.parameters(), strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-3, atol=1e-5)


def _with(experiment: Experiment, **runtime: Any) -> Experiment:
    return replace(experiment, runtime=replace(experiment.runtime, **runtime))
