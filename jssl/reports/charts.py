"""The charts of a page, as specifications of Vega-Lite 5 (https://vega.github.io/vega-lite/)."""

from typing import Any

from jssl.reports.records import Record, Series

MOST_POINTS = 600  # of a curve; a longer one is thinned
CURVES = {  # {metric: title}; other metrics follow in alphabetical order
    "loss": "Loss",
    "lr": "Learning rate",
    "knn_top1": "Accuracy of kNN",
    "linear_top1": "Accuracy of the linear probe",
    "feature_std": "Collapse: standard deviation of the features",
    "rank": "Collapse: effective rank of the features",
    "uniformity": "Collapse: uniformity",
    "alignment": "Alignment of the views",
    "examples_per_s": "Throughput in examples per second",
    "data_wait_fraction": "Fraction of the time that waits for data",
    "skipped": "Updates skipped so far",
    "grad_norm": "Norm of the gradient",
}
HIDDEN = ("skipped_consecutive", "flops_per_s", "step_seconds")  # shown by other curves
FRACTIONS = ("knn_top1", "linear_top1", "data_wait_fraction")


def thinned(points: Series, most: int = MOST_POINTS) -> Series:
    """Returns at most `most` points, evenly spaced, with the first and the last."""
    if len(points) <= most:
        return points
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def curves(records: list[Record], labels: list[str]) -> list[dict[str, Any]]:
    """Returns {"title", "metric", "spec"} of each metric that a run has logged."""
    logged = {name for record in records for name in record.series} - set(HIDDEN)
    names = [name for name in CURVES if name in logged] + sorted(logged - set(CURVES))
    charts = []
    for name in names:
        points = [
            {"step": step, "value": value, "run": label}
            for record, label in zip(records, labels, strict=True)
            for step, value in thinned(record.series.get(name, []))
        ]
        title = CURVES.get(name, name.replace("_", " "))
        charts.append({"title": title, "metric": name, "spec": curve(name, points, labels)})
    return charts


def curve(name: str, points: list[dict[str, Any]], labels: list[str]) -> dict[str, Any]:
    """Returns the chart of one metric over the steps, one line for each run.

    Args:
      name: the metric.
      points: {"step", "value", "run"} each.
      labels: the names of all runs, which have the same color in all charts.
    """
    has_zero = name in (*FRACTIONS, "examples_per_s", "skipped")
    number = ".1%" if name in FRACTIONS else ".4~g"
    axis: dict[str, Any] = {"title": None, "tickCount": 5}
    if name in FRACTIONS:
        axis["format"] = "~%"
    if name == "examples_per_s":
        axis["format"] = "~s"
    few = max((sum(p["run"] == label for p in points) for label in labels), default=0) <= 60
    color: dict[str, Any] = {"field": "run", "type": "nominal", "scale": {"domain": labels}}
    color["legend"] = {"orient": "top", "title": None} if len(labels) > 1 else None
    return {
        "data": {"values": points},
        "width": "container",
        "height": 190,
        "mark": {
            "type": "line",
            "interpolate": "linear",
            "strokeWidth": 2,
            "point": {"size": 22} if few else False,
            "tooltip": True,
        },
        "encoding": {
            "x": {
                "field": "step",
                "type": "quantitative",
                "axis": {"title": "step", "format": "~s", "tickCount": 5},
            },
            "y": {
                "field": "value",
                "type": "quantitative",
                "axis": axis,
                "scale": {"zero": has_zero},
            },
            "color": color,
            "tooltip": [
                {"field": "run", "type": "nominal", "title": "run"},
                {"field": "step", "type": "quantitative", "title": "step", "format": ","},
                {"field": "value", "type": "quantitative", "title": name, "format": number},
            ],
        },
        "params": [{"name": "zoom", "select": {"type": "interval", "encodings": ["x"]},
                    "bind": "scales"}],
    }  # fmt: skip


def scatter(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the chart of a map, colored by class.

    Args:
      points: {"x", "y", "class", "example"} each.
    """
    classes = sorted({point["class"] for point in points})
    scheme = "tableau10" if len(classes) <= 10 else "tableau20"
    coordinate = {"type": "quantitative", "axis": None, "scale": {"zero": False}}
    return {
        "data": {"values": points},
        "width": "container",
        "height": 360,
        "mark": {"type": "circle", "size": 34, "opacity": 0.8},
        "encoding": {
            "x": {"field": "x", **coordinate},
            "y": {"field": "y", **coordinate},
            "color": {
                "field": "class",
                "type": "nominal",
                "scale": {"scheme": scheme, "domain": classes},
                "legend": {"orient": "bottom", "columns": 5, "title": None, "labelLimit": 110}
                if len(classes) > 1
                else None,
            },
            "tooltip": [{"field": name, "type": "nominal"} for name in ("class", "example")],
        },
        "params": [{"name": "zoom", "select": "interval", "bind": "scales"}],
    }  # fmt: skip
