"""A trained network as an ONNX file that takes pixels, so that nothing has to be done to an image before."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from degrade.extras import require
from degrade.files import replacing
from degrade.runs.trained import Trained

NAME = "network.onnx"

#: Pixels a side of the images that the file takes, as all sources deliver them.
SIDE = 32


def require_onnx() -> None:
    """Refuse where a package that writes ONNX is missing.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require(package, extra="onnx", what="--onnx")


def export_onnx(network: Trained, target: Path) -> None:
    """Write a trained network as ONNX, with its mean image and the averaging to its own size inside.

    The file's input is `pixels`, uint8 N x 3 x 32 x 32, and its output `logits`, float32 N x classes, for any N. The
    network's facts are its metadata. A file that is there already is replaced.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
    """
    require_onnx()
    model = network.classifier()
    example = torch.zeros((2, 3, SIDE, SIDE), dtype=torch.uint8)
    with _silence():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
        assert program is not None  # noqa: S101 - it is where dynamo is set
        program.model.metadata_props.update(network.facts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            program.save(fresh, external_data=False)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep PyTorch's exporter from telling of its own steps and of functions of its own that will vanish."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
