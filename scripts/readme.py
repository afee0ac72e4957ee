"""Writes the README's tables from the records in outputs/reference, between its `<!-- name -->` marks."""

import sys
from pathlib import Path

from degrade.analysis import error_curves, error_table
from degrade.bench import Report
from degrade.runs import find_records

TOP = Path(__file__).resolve().parents[1]
REFERENCE = TOP / "outputs" / "reference"


def quick() -> str:
    """The table of errors that `scripts/reproduce` ends in."""
    return error_table(error_curves(find_records([REFERENCE / "quick"])))


def bench() -> str:
    """The newest bench, as `degrade bench` prints it, its date and commit before it."""
    report = Report.from_json(max(REFERENCE.glob("bench/*.json")).read_text())
    made, git = report.machine["date"], report.machine["git"]
    return f"{made[:10]}, commit {str(git['commit'])[:7]}\n{report.as_text()}"


TABLES = {"quick": quick, "bench": bench}


def filled(text: str) -> str:
    """The README with every marked block made anew."""
    for name, table in TABLES.items():
        head, mark, rest = text.partition(f"<!-- {name} -->\n```\n")
        if not mark:
            raise SystemExit(f"README.md: no block marked <!-- {name} -->")
        _, fence, tail = rest.partition("```\n")
        text = head + mark + table() + "\n" + fence + tail
    return text


if __name__ == "__main__":
    readme = TOP / "README.md"
    before = readme.read_text()
    after = filled(before)
    if before == after:
        print("README.md: its tables are those of outputs/reference")
    elif "--check" in sys.argv:
        raise SystemExit("README.md: its tables differ from outputs/reference; run scripts/readme")
    else:
        readme.write_text(after)
        print("README.md: tables written")
