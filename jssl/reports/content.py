"""What a page about runs shows, as plain values for the template `page.html`."""

import logging
from collections.abc import Callable
from typing import Any

import ml_collections

from jssl.config import UserError
from jssl.data import files
from jssl.reports import album, attention, charts, neighbors, projection, records
from jssl.reports.examples import Embedding, embed_splits, open_run
from jssl.reports.records import Record
from jssl.training.setup import Run
from jssl.workdir.run_folder import RunFolder

log = logging.getLogger("jssl")
Opener = Callable[[str], tuple[RunFolder, ml_collections.ConfigDict]]
CARDS = {  # {figure: its title at the top of a run}
    "step": "steps",
    "loss": "loss",
    "knn_top1": "kNN",
    "linear_top1": "linear probe",
    "best_knn_top1": "best kNN",
    "examples_per_s": "examples/s",
    "train_seconds": "training time",
}


def page_content(workdirs: list[str], open_config: Opener, count: int) -> dict[str, Any]:
    """Returns the variables of the template.

    Args:
      workdirs: the folders of the runs.
      open_config: open_config(workdir) -> (its folder, its config with the user's changes); it
        raises `UserError` if the config cannot be used here.
      count: the number of examples of a split that are embedded.

    Raises:
      UserError: a folder holds no run.
    """
    runs = [records.read_record(workdir) for workdir in workdirs]
    labels = records.labels_of(runs)
    specs: dict[str, Any] = {}
    curves = charts.curves(runs, labels)
    for i, chart in enumerate(curves):
        chart["id"] = f"curve-{i}"
        specs[chart["id"]] = chart.pop("spec")
    sections = []
    for i, (record, label) in enumerate(zip(runs, labels, strict=True)):
        section = run_section(record, label)
        section |= embedded_section(record, open_config, count, specs, f"map-{i}")
        sections.append(section)
    return {
        "title": ", ".join(labels),
        "labels": labels,
        "figures": table(records.compared_figures(runs)) if len(runs) > 1 else [],
        "differences": table(records.differences(runs)),
        "curves": [chart for chart in curves if chart["metric"] in charts.CURVES],
        "more_curves": [chart for chart in curves if chart["metric"] not in charts.CURVES],
        "runs": sections,
        "charts": specs,
    }


def table(rows: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Returns {"name", "values"} of each row, as texts."""
    return [
        {"name": name, "values": [records.text_of(name, value) for value in values]}
        for name, values in rows.items()
    ]


def run_section(record: Record, label: str) -> dict[str, Any]:
    """Returns what the files of a workdir tell without the data and the checkpoint."""
    figures = records.figures(record)
    cards = [
        {"title": title, "value": card_text(name, figures)}
        for name, title in CARDS.items()
        if figures[name] is not None
    ]
    versions = record.stored.get("versions", {})
    config = {name.removeprefix("config."): value for name, value in record.config.items()}
    info = record.stored.get("data_info", {})
    source = config.get("data.source")
    source = config.get("data.name" if source == "tfds" else "data.path") or source
    facts = {
        "method": config.get("method"),
        "recipe": record.stored.get("recipe", {}).get("name"),
        "encoder": config.get("model.name"),
        "data": f"{source}, {config.get('data.split')}, {info.get('num_examples', 0):,} examples",
        "batch size": config.get("batch_size"),
        "device": versions.get("device"),
        "commit": str(versions.get("commit", ""))[:10],
        "folder": record.workdir,
    }
    return {
        "label": label,
        "status": figures["status"],
        "cards": cards,
        "facts": {name: str(value) for name, value in facts.items() if value},
        "pictures": album.pictures(RunFolder(record.workdir).path),
        "config": {name: str(value) for name, value in sorted(config.items())},
        "versions": {name: str(value) for name, value in versions.items()},
    }


def card_text(name: str, figures: dict[str, Any]) -> str:
    """Formats a figure for the top of a run."""
    value = figures[name]
    if name == "step":
        return f"{value:,} of {figures['steps']:,}"
    if name.endswith("_top1"):
        return f"{value:.1%}"
    return records.text_of(name, value)


def embedded_section(
    record: Record, open_config: Opener, count: int, specs: dict[str, Any], prefix: str
) -> dict[str, Any]:
    """Returns neighbors, maps and attention of a run; a reason takes the place of what is missing.

    Adds the charts of the maps to `specs`, with ids that begin with `prefix`.
    """
    section: dict[str, Any] = {
        "neighbors": [],
        "maps": [],
        "attention": [],
        "reason": "",
        "queries_reason": "",
        "map_split": "",
        "has_class_token": True,
    }
    try:
        folder, tree = open_config(record.workdir)
        run, state = open_run(tree, folder)
        embedding = embed_splits(run, state, count)
    except (UserError, files.Damaged, OSError) as error:
        section["reason"] = files.one_line(error, 400)
        log.warning("%s: no neighbors and no map: %s", record.workdir, section["reason"])
        return section
    section["step"] = int(state.step)
    section["queries_reason"] = embedding.reason
    section["neighbors"] = neighbors.grid(embedding)
    rows, by_projection = projection.points(embedding)
    section["map_split"] = rows.split
    for i, (title, points) in enumerate(by_projection.items()):
        specs[f"{prefix}-{i}"] = charts.scatter(points)
        section["maps"].append({"title": title, "id": f"{prefix}-{i}"})
    section["attention"] = attention_of(run, embedding)
    model: Any = run.config._tree.model
    section["has_class_token"] = bool(model.get("class_token", False))
    return section


def attention_of(run: Run, embedding: Embedding) -> list[dict[str, Any]]:
    """Returns the attention maps of examples that training has not seen, if there are any."""
    rows = embedding.queries or embedding.bank
    return attention.pictures(run, embedding.state, rows)
