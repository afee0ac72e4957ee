"""Writes docs/degradation.ipynb from the cells below, with what they show when they are run on the reference records.

`--check` only says whether it differs; `--run FOLDER` runs the cells in a folder and writes nothing.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOP = Path(__file__).resolve().parents[1]
TARGET = TOP / "docs" / "degradation.ipynb"

#: Cells that begin with "# " are text, the others code.
CELLS = [
    """# The degradation problem, hands on

Stack more layers on a plain convolutional network and its *training* error rises; add identity shortcuts and it falls
(He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, 2015). This notebook goes through it with
degrade's Python names. It shows the records that come with the repository; set `TRAIN = True` to train networks of
your own, by the quick recipe in some twenty minutes on two CPU cores.

On a fresh machine, clone the repository, then run `pip install ./degrade` and open this notebook in the clone.""",
    """import os
from pathlib import Path

from degrade.analysis import draw_figure6, error_curves, error_table, verdict, verdict_text
from degrade.config import compose
from degrade.runs import find_records, run

TRAIN = bool(os.environ.get("DEGRADE_NOTEBOOK"))  # True trains; the variable does so for tests, with settings
SETTINGS = os.environ.get("DEGRADE_NOTEBOOK", "recipe=quick").split()
REFERENCE = next(folder for folder in [Path("outputs"), Path("../outputs")] if folder.is_dir()) / "reference"
NETWORKS = [("plain", 20), ("plain", 56), ("residual", 20), ("residual", 56)]""",
    """# ## Two families, one line apart

A plain and a residual network of one depth have the same layers and the same number of parameters. The shortcuts add
none: where the number of channels doubles, the new ones are padded with zeros (option A of the paper).""",
    """from degrade.models import build_model, count_parameters

for family, depth in NETWORKS:
    model = build_model(compose([f"model={family}", f"model.depth={depth}"]).model)
    print(f"{family}-{depth}: {count_parameters(model):,} parameters")""",
    """# ## Training, or the records of it

A run is a function of its settings and its seed. `run` trains one, or returns the record if there is one already;
an interrupted one goes on where it stopped.""",
    """if TRAIN:
    records = [run(compose([*SETTINGS, f"model={family}", f"model.depth={depth}"])) for family, depth in NETWORKS]
else:
    records = find_records([REFERENCE / "quick"])
curves = error_curves(records)
print(error_table(curves))""",
    """# ## The figure

Left the plain networks, right the residual ones. The deeper plain network is worse *in training*, so it does not
overfit: it is harder to train. What departs from the paper's recipe stands below the figure.""",
    """from IPython.display import Image


def shown(figure):
    \"\"\"A figure as a picture in the notebook.\"\"\"
    figure.savefig("figure.png", dpi=110)
    return Image("figure.png")


shown(draw_figure6(curves))""",
    """# ## How sure is that?

One seed is an anecdote. Over seeds there are intervals, and the verdict goes claim by claim. In a recipe shorter than
the paper's it is about early training only.""",
    """print(verdict_text([verdict(curves)]))""",
    """# ## The same, trained longer

The short recipe has ten times as many updates. Here the deeper *residual* network ends below the shallower
one, as in the paper, while the deeper plain one is still far behind.""",
    """if not TRAIN:
    longer = error_curves(find_records([REFERENCE / "short"]))
    print(error_table(longer))
shown(draw_figure6(curves if TRAIN else longer))""",
    """# ## Why? Not for want of gradients

With batch norm no gradient vanishes. In the deep plain network it *grows* from the last layer to the first, and the
first updates make the first layers' weights many times as large: under batch norm such weights turn slowly. The
numbers are those that `degrade probe gradients` keeps beside each run.""",
    """from degrade.probes.gradients import stages
from degrade.probes.probe import numbers_path, read

for record in [] if TRAIN else find_records([REFERENCE / "gradients"]):
    updates, layers = stages(read(numbers_path(record, "gradients")))
    growth = max(layer["weight_growth"] for layer in layers[-1])
    network = record.path.parent.name
    print(f"{network}: after {updates[-1]} updates a layer's weights are up to {growth:.1f} times as large")""",
    """# ## Go on

`degrade story` makes most chapters, and a page of them; `degrade reproduce --recipe paper` trains as the paper did,
which takes a GPU or days. The documentation says what each recipe shows and does not show.""",
]


def notebook() -> nbformat.NotebookNode:
    """The notebook, not run yet."""
    made = nbformat.v4.new_notebook()
    for number, text in enumerate(CELLS):
        kind = nbformat.v4.new_markdown_cell if text.startswith("# ") else nbformat.v4.new_code_cell
        source = text.removeprefix("# ") if text.startswith("# ## ") else text
        made.cells.append(kind(source, id=f"cell-{number}"))
    made.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return made


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook, run in a folder."""
    made = notebook()
    NotebookClient(made, timeout=3600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in made.cells:
        cell.metadata = {}  # times of execution would differ from day to day
    return made


def told(made: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Each cell's text, and the text that it printed; pictures have tests of their own."""
    return [
        (cell.source, "".join(own.text for own in cell.get("outputs", []) if own.output_type == "stream"))
        for cell in made.cells
    ]


def main(words: list[str]) -> None:
    """Do what the words ask for."""
    if words[:1] == ["--run"]:
        executed(Path(words[1]))
        return
    made = executed(TARGET.parent)
    (TARGET.parent / "figure.png").unlink()
    if "--check" not in words:
        nbformat.write(made, TARGET)
    elif told(made) != told(nbformat.read(TARGET.open(), as_version=4)):
        raise SystemExit(f"{TARGET.relative_to(TOP)} is not what its cells show; run scripts/notebook")
    print(f"{TARGET.relative_to(TOP)} is what its cells show on outputs/reference", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
