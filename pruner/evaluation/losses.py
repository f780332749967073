"""The loss curve of a recovery, from the logs that Lightning's CSVLogger leaves."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

Curve = list[tuple[float, float]]


def loss_curves(logs: Path) -> dict[str, Curve]:
    """Column ("loss", "val_loss") -> (step, value), ascending; of a step logged twice, the later value."""
    curves: dict[str, dict[float, float]] = {}
    for file in sorted(logs.glob("**/metrics.csv"), key=lambda file: file.stat().st_mtime):
        with file.open(newline="") as rows:
            for row in csv.DictReader(rows):
                for column in ("loss", "val_loss"):
                    if row.get(column) and math.isfinite(float(row[column])):
                        curves.setdefault(column, {})[float(row["step"])] = float(row[column])
    return {column: sorted(points.items()) for column, points in curves.items()}


def smooth(curve: Sequence[tuple[float, float]], share: float = 0.1) -> Curve:
    """Each point as the mean over its neighbours within `share` of the whole curve, itself in the middle."""
    reach = int(len(curve) * share / 2)
    out = []
    for place, (step, _) in enumerate(curve):
        window = curve[max(0, place - reach) : place + reach + 1]
        out.append((step, math.fsum(value for _, value in window) / len(window)))
    return out
