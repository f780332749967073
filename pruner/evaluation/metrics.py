"""`metrics.json`: label of a model -> its measurements; written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruner.run_folder import write_text

FORMAT = 1

Row = dict[str, Any]
Models = Mapping[str, Row]


def read_metrics(file: Path) -> dict[str, Row]:
    """Label -> measurements of every model in a file; none where there is no such file.

    Raises:
        ValueError: it is not one that this version writes.
    """
    try:
        metrics = json.loads(file.read_text())
        if metrics["format"] != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        models: dict[str, Row] = metrics["models"]
        return models
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} holds no metrics of this version ({error!r}); move it away to measure anew"
        ) from error


def write_metrics(file: Path, models: Models) -> None:
    """Write every model's measurements."""
    write_text(file, json.dumps({"format": FORMAT, "models": models}, indent=1) + "\n")
