"""The table of `parity.py` in docs/guides/weights.md, between its marks."""

import pathlib

GUIDE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "guides" / "weights.md"
START = "<!-- parity -->\n"
END = "<!-- end of parity -->"
FORMATS = ("timm", "hf", "torchvision")


def put_parity(found: list[dict]) -> None:
    """Writes the tables of all runs of parity.py."""
    if not found:
        return
    before, mark, rest = GUIDE.read_text().partition(START)
    tables = "\n".join(table(run) for run in found)
    GUIDE.write_text(before + mark + tables + END + rest.partition(END)[2])


def table(run: dict) -> str:
    """The largest differences of one run."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        "",
        f"`python benchmarks/parity.py`, commit {run['commit']}, cpu, {versions}: the largest "
        "absolute output, and the largest absolute difference. A dash: that library has no such "
        "encoder.",
        "",
        "| weights of | family | output | in | out: " + " | out: ".join(FORMATS) + " |",
        "|" + "---|" * (4 + len(FORMATS)),
    ]
    for row in run["families"]:
        numbers = [row["in"], *(row["out"][kind] for kind in FORMATS)]
        cells = [f"{x:.1e}" if isinstance(x, float) else "-" for x in numbers]
        start = f"| {row['library']} | {row['family']} | {row['largest']:.1f}"
        lines.append(f"{start} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n"
