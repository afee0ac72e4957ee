import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from degrade.analysis.speed import Contender, Report
from degrade.bench import contenders, traffic
from degrade.config import Experiment, ModelConfig
from degrade.data import load_images
from degrade.models import CifarNet, VggNet, build_model, multiply_adds
from degrade.training import Training, fit
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


@pytest.mark.parametrize("family", ["plain", "residual"])
def test_recomputing_changes_nothing_but_memory(family: str, small: Callable[..., Experiment]) -> None:
    runs = []
    images = load_images(small().data)
    for recompute in ("false", "true"):
        # Depth 20 has nine blocks, which are two segments.
        settings = ["model.depth=20", "recipe.iterations=4", "eval.every=2", f"runtime.recompute={recompute}"]
        training = Training(small(f"model.family={family}", *settings), images)
        rows = [(row.train_loss, row.test_loss, row.train_error_clean) for row in fit(training)]
        runs.append((rows, training.engine.model.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert {row[1] for row in runs[0][0]} - {None}
    for name, value in runs[0][1].items():
        assert torch.equal(value, runs[1][1][name]), name


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


def test_contenders_are_both_loops_at_each_setting_that_makes_sense() -> None:
    found = contenders([8, 20], device="cpu", workers=1, batch_size=8, compiled=False)
    labels = [contender.label for contender in found if contender.depth == 8]
    assert labels[:3] == ["conventional, 0 workers", "conventional, 1 workers", "eager fp32"]
    assert labels[-1].endswith("NCHW")
    assert [contender.label for contender in found if contender.depth == 20] == labels
    assert {(contender.batch_size, contender.device) for contender in found} == {(8, "cpu")}


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
        *arguments, "--batch-size", "8", "--workers", "1", "--device", "cpu", "--json", "--profile", "t.json"
    )
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert [result["label"] for result in report["results"]] == ["conventional, 1 workers", "eager fp32 NCHW"]
    for result in report["results"]:
        assert len(result["images_per_second"]) == 2
        assert result["median"] > 0
        assert result["ratio"] > 0
        assert 0 < result["roofline"] < 1
        assert 0 < result["bandwidth"] < 1
        assert result["peak_memory"] > 1e8
    conventional, engine = report["results"]
    assert conventional["ratio"] == 1
    parts = set(engine["step_ms"])
    assert parts == {"data", "forward", "backward", "optimizer", "metrics", "whole", "evaluation"}
    text = Report.from_json(outcome.out).as_text()
    assert json.loads(Report.from_json(outcome.out).as_json()) == report
    assert max(map(len, text.splitlines())) <= 80
    assert f"{engine['median']:,.0f}" in text
    assert engine["paper_hours"] > 0
    assert "traceEvents" in json.loads((tmp_path / "t.json").read_text())
