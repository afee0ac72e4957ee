import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from degrade.analysis.intervals import median_interval
from degrade.analysis.speed import Contender, Report, Result, reference, settled
from degrade.bench import _Runner, bench, contenders, traffic
from degrade.config import ModelConfig
from degrade.models import CifarNet, VggNet, build_model, multiply_adds
from tests.conftest import Outcome


def test_multiply_adds_are_those_of_the_layers_written_out() -> None:
    stages = 6 * 16 * 16 * 9 * 32**2, (16 + 5 * 32) * 32 * 9 * 16**2, (32 + 5 * 64) * 64 * 9 * 8**2
    assert multiply_adds(CifarNet(ModelConfig())) == 3 * 16 * 9 * 32**2 + sum(stages) + 64 * 10
    model = CifarNet(ModelConfig()).train()
    multiply_adds(model)
    assert model.training


def test_traffic_counts_every_pass_over_every_activation() -> None:
    activations = 7 * 16 * 32**2 + 6 * 32 * 16**2 + 6 * 64 * 8**2
    assert traffic(CifarNet(ModelConfig()), "fp32") == 14 * 4 * activations
    assert traffic(CifarNet(ModelConfig()), "bf16") == 14 * 2 * activations


def saved_bytes(model: CifarNet | VggNet) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.zeros(4, 3, 32, 32)).sum()
    return sum(kept.values())


def test_recomputing_keeps_a_fraction_of_the_activations() -> None:
    model = build_model(ModelConfig(depth=110)).train()
    whole = saved_bytes(model)
    model.recompute = True
    assert saved_bytes(model) < whole / 5


def test_contenders_are_both_loops_at_each_setting_that_makes_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr("degrade.bench.usable", lambda: 4)  # other work takes the rest
    found = contenders([8, 20], device="cpu", workers=1, batch_sizes=[8, 4], compiled=False)
    labels = [contender.label for contender in found if contender.group == (8, 8)]
    assert labels[:3] == ["conventional, 0 workers", "conventional, 1 workers", "eager fp32"]
    assert "NCHW" in labels[-2]
    assert labels[-1].endswith(", 4 at once")
    assert list(dict.fromkeys(contender.group for contender in found)) == [(8, 8), (8, 4), (20, 8), (20, 4)]
    assert [contender.label for contender in found if contender.group == (20, 4)] == labels
    assert {contender.device for contender in found} == {"cpu"}


def result(name: str, speeds: Sequence[float], cores: Sequence[float] = (), **how: Any) -> Result:
    return Result(Contender(20, name, "fp32", **how), list(speeds), cores=list(cores))


def test_ratios_are_of_turns_in_the_same_round_and_told_only_if_they_are_sure() -> None:
    slow, fast = result("conventional", [90] * 8), result("conventional", [100, 50] * 4, workers=2)
    eager, noisy = (
        result("eager", [200, 101] * 4),
        result("eager", [200, 100, 50, 70] * 2, memory_format="contiguous"),
    )
    assert reference([slow, fast, eager]) is slow
    assert reference([fast, eager]) is fast
    assert reference([eager, noisy]) is eager
    ratio = eager.ratio(fast)
    assert ratio == (2.01, 2.0, 2.02)
    assert settled(ratio)
    assert not settled(noisy.ratio(fast))
    text = Report({"device": "here", "torch": "2"}, {"fp32": 1e9}, 1e9, [fast, eager, noisy]).as_text()
    assert "20 layers, batches of 128, 8 turns each\n" in text
    assert "2.01 ±0%" in text
    assert text.count("too noisy") == 1
    longer = replace(noisy, images_per_second=[200, 100, 50, 70] * 4)
    assert (
        "8 to 16 turns each\n"
        in Report({"device": "here", "torch": "2"}, {"fp32": 1e9}, 1e9, [fast, longer]).as_text()
    )


def test_turns_in_which_other_work_took_the_cpu_are_left_out() -> None:
    loop = result("conventional", [100, 100, 100, 60, 100, 100, 100, 100], cores=[2, 2, 2, 1, 2, 2, 1.9, 2])
    eager = result("eager", [150, 150, 10, 150, 150, 150, 150, 150], cores=[2, 2, 0.1, 2, 2, 2, 2, 2])
    assert (len(loop.counted), len(eager.counted)) == (7, 7)
    assert eager.ratio(loop) == (1.5, 1.5, 1.5)
    text = Report({"device": "here", "torch": "2"}, {"fp32": 1e9}, 1e9, [loop, eager]).as_text()
    assert "8 turns each, 2 of 16 in all left out as disturbed" in text
    apart = result("conventional", [100, 50], cores=[2, 1]), result("eager", [50, 100], cores=[1, 2])
    assert apart[1].ratio(apart[0]) is None
    assert not settled(None)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 0, 0), (5, 0, 4), (6, 0, 5), (8, 0, 7), (9, 1, 7), (20, 5, 14), (25, 7, 17)]
)
def test_the_interval_of_a_median_is_that_of_tables(count: int, low: int, high: int) -> None:
    """Between which of the ordered values, by 95 % (Conover, Practical Nonparametric Statistics, table A3)."""
    found = median_interval([float(k) for k in reversed(range(count))])
    assert found == ((count - 1) / 2, low, high)


class Runner:
    """Answers as the processes of a contender do; its speed alternates in one memory format only."""

    def __init__(self, contender: Contender) -> None:
        self.contender, self.turns = contender, 0

    def ask(self, what: str, *_: float) -> list[Any]:
        self.turns += what == "run"
        noise = 50 * (self.turns % 2) if self.contender.memory_format == "contiguous" else 0
        return [(100 + noise, 1.0)] if what == "run" else [{}] if what == "split" else [1]

    def stop(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in {"_Runner": Runner, "gemm_peak": lambda *_: 1e12, "copy_peak": lambda *_: 1e9}.items():
        monkeypatch.setattr(f"degrade.bench.{name}", stand_in)


def test_a_ratio_that_is_not_told_is_explained(scripted: None, cli: Callable[..., Outcome]) -> None:
    outcome = cli("bench", "--depths", "8", "--batch-sizes", "8", "--rounds", "6", "--device", "cpu", "--no-compiled")
    assert outcome.code == 0
    *table, note = outcome.out.splitlines()
    assert sum("too noisy" in line for line in table) == 1
    assert note == "too noisy: too noisy to say, since the ratio's interval is wider than a tenth of it"


@pytest.mark.parametrize(("how", "turns"), [({}, 18), ({"limit": 0.0}, 6), ({"rounds": 4}, 4)])
def test_a_noisy_contender_has_the_turns_of_those_that_are_sure(
    how: dict[str, Any], turns: int, scripted: None
) -> None:
    sure, noisy = Contender(8, "eager", "fp32"), Contender(8, "eager", "fp32", memory_format="contiguous")
    loops = [Contender(8, "conventional", "fp32", workers=count) for count in (0, 1)]
    report = bench([*loops, sure, noisy], **{"rounds": 18, "seconds": 0.1, "limit": 60.0} | how)
    counts = [len(result.images_per_second) for result in report.results]
    assert counts == [turns, turns, min(turns, 6), turns]


def test_two_networks_at_once_share_the_threads() -> None:
    runner = _Runner(Contender(8, "eager", "fp32", batch_size=8, copies=2))
    try:
        assert len(runner.ask("start")) == 2
        assert [speed > 0 and cores > 0 for speed, cores in runner.ask("run", 0.1)] == [True, True]
    finally:
        runner.stop()


def test_bench_measures_both_loops_and_says_so_as_text_or_json(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(depths: Sequence[int], **how: Any) -> list[Contender]:
        """One contender of each kind, as each is a process that imports torch."""
        _, conventional, engine, *_ = contenders(depths, **how)
        return [conventional, replace(engine, memory_format="contiguous")]

    monkeypatch.setattr("degrade.bench.contenders", few)
    arguments = ["bench", "--depths", "8", "--no-compiled", "--rounds", "2", "--seconds", "0.05"]
    outcome = cli(
        *arguments, "--batch-sizes", "8", "--workers", "1", "--device", "cpu", "--json", "--profile", "t.json"
    )
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert [result["label"] for result in report["results"]] == ["conventional, 1 workers", "eager fp32 NCHW"]
    for result in report["results"]:
        assert len(result["images_per_second"]) == 2
        assert result["median"] > 0
        assert len(result["cores"]) == 2
        assert 0 < result["roofline"] < 1
        assert 0 < result["bandwidth"] < 1
        assert result["peak_memory"] > 1e8
    engine = report["results"][1]
    parts = set(engine["step_ms"])
    assert parts == {"data", "forward", "backward", "optimizer", "metrics", "whole", "evaluation"}
    text = Report.from_json(outcome.out).as_text()
    assert json.loads(Report.from_json(outcome.out).as_json()) == report
    assert max(map(len, text.splitlines())) <= 80
    assert f"{engine['median']:,.0f}" in text
    assert engine["paper_hours"] is None  # the paper's batches are larger
    assert "traceEvents" in json.loads((tmp_path / "t.json").read_text())
