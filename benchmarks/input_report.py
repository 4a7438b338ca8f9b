"""The section of RESULTS.md about benchmarks/input.py."""

import statistics


def inputs(found: list[dict]) -> str:
    """What a host reads, beside PyTorch's DataLoader on the same files."""
    parts = ["## Reading data"]
    for run in found:
        about = run["input"][0]
        parts += [
            "",
            f"`python benchmarks/input.py`, {about['versions']['device']}, {about['cores']} cores,"
            f" PyTorch {about['peer'].get('torch')}. Examples per second and core, median (best) "
            "of the rounds; the ratio of the medians in brackets. A batched DataLoader gives its "
            "data set the indices of a whole batch.",
            "",
            "| data | workers | jssl | goal | DataLoader | batched DataLoader | first batch s, "
            "jssl, DataLoader | MB a worker, jssl, DataLoader | commit | date |",
            "|" + "---|" * 10,
        ]
        parts += [input_row(row) for row in run["input"] if row["kind"] != "files"]
        parts += [folder_line(row) for row in run["input"] if row["kind"] == "files"]
    return "\n".join(parts)


def input_row(row: dict) -> str:
    """One row of the table of `inputs`."""
    cores = max(row["workers"], 1)
    own = statistics.median(row["jssl"]["rate"]) / cores
    cells = [row["row"], str(row["workers"])]
    for side in ("jssl", "dataloader", "dataloader_batched"):
        rates = [rate / cores for rate in row.get(side, {}).get("rate", [])]
        cell = f"{statistics.median(rates):,.0f} ({max(rates):,.0f})" if rates else "-"
        if rates and side != "jssl":
            cell += f" [{own / statistics.median(rates):.2f}]"
        cells.append(cell)
        if side == "jssl":
            cells.append(f"{row['goal']:,}" if row["goal"] else "-")
    cells.append(both(row, "first_s", ".2g"))
    cells.append(both(row, "pss_mb", ".0f") if row["workers"] else "-")
    cells += [row["versions"]["commit"][:7], row["date"]]
    return "| " + " | ".join(cells) + " |"


def both(row: dict, key: str, digits: str) -> str:
    """The medians of a figure of jssl and of the DataLoader."""
    sides = [row[side] for side in ("jssl", "dataloader") if side in row]
    return ", ".join(format(statistics.median(side[key]), digits) for side in sides)


def folder_line(row: dict) -> str:
    """What a folder of many files costs."""
    rounds = len(row["jssl"]["list_s"])
    return (
        f"\nA folder of {row['count']:,} small files, jssl and torchvision's ImageFolder, medians "
        f"({rounds} rounds, one worker): listed in {both(row, 'list_s', '.2f')} "
        f"s, first batch after {both(row, 'first_s', '.2f')} s, a worker has "
        f"{both(row, 'pss_mb', '.0f')} MB (its share of shared pages; resident "
        f"{both(row, 'rss_mb', '.0f')} MB). Commit {row['versions']['commit'][:7]}, {row['date']}."
    )
