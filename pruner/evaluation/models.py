"""Several models, measured alike into one `metrics.json`; what is there already is not measured again."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.checkpoint import load_model, load_tokenizer
from pruner.evaluation.harness import check_tasks
from pruner.evaluation.measures import MEASURES, measurement_key, wanted
from pruner.evaluation.metrics import Row, read_metrics, write_metrics
from pruner.evaluation.report import write_report
from pruner.evaluation.settings import Evaluation
from pruner.progress import Track, silent
from pruner.records import read_records
from pruner.run_folder import RunFolder, content_identity

__all__ = ["Evaluation", "evaluate_models"]

log = logging.getLogger(__name__)


def evaluate_models(
    models: Mapping[str, str | Path],
    settings: Evaluation,
    output: str | Path,
    track: Track = silent,
) -> dict[str, Row]:
    """Measure each model in turn, one in memory at a time; write `metrics.json` and `report.html`.

    A measurement that `output/metrics.json` already holds, of the same model and settings, is kept; each
    new one is written as soon as it is made, so that an interrupted evaluation goes on where it stopped.

    Args:
        models: label -> model; the first is what the others are compared with.
        settings: what to measure.
        output: folder for the two files.
        track: sees the work go by.

    Returns:
        Label -> measurements, as `metrics.json` holds them.

    Raises:
        ValueError: a text, task or model is missing or does not fit; what was measured before is kept.
    """
    check(settings)
    run = RunFolder(Path(output))
    rows = read_metrics(run.metrics)
    rows = {label: rows.get(label, {}) for label in [*models, *rows]}
    for label, path in models.items():
        start = time.perf_counter()
        done = []
        for name, row in _measured(rows[label], str(path), settings, track):
            rows[label] = row
            write_metrics(run.metrics, rows)
            done.append(name)
        what = ", ".join(done) or "nothing, all was known"
        log.info("measured of %s: %s (%.0f s)", label, what, time.perf_counter() - start)
    write_report(run.root)
    return rows


def _measured(known: Row, path: str, settings: Evaluation, track: Track) -> Iterator[tuple[str, Row]]:
    """Yield the name of each measurement made and the row that it makes of what was `known`."""
    identity = content_identity(path)
    row: Row = known if known.get("model") == identity else {"model": identity}
    keys = {name: measurement_key(name, settings) for name in wanted(settings)}
    missing = [name for name, key in keys.items() if row.get(name, {}).get("key") != key]
    if not missing:
        return
    model, tokenizer = _load(path, settings)
    row = {**row, "path": path, "class": type(model).__name__, "dtype": str(model.dtype)[len("torch.") :]}
    for name in missing:
        row = {**row, name: {"key": keys[name], **MEASURES[name](model, tokenizer, settings, track)}}
        yield name, row


def check(settings: Evaluation) -> None:
    """Raise ValueError for what can be seen to be wrong before any model is loaded."""
    for text in settings.texts:
        next(read_records(text, "test"), None)
    if settings.tasks:
        check_tasks(settings.tasks, settings.tasks_folder, settings.tasks_data)


def _load(path: str, settings: Evaluation) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    trust = settings.trust_remote_code
    tokenizer = load_tokenizer(path, trust_remote_code=trust)
    model = load_model(path, dtype=settings.dtype, trust_remote_code=trust)
    fastest = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(fastest if settings.device == "auto" else settings.device), tokenizer
