"""The pruning stage on folders: a dense model in, `pruned/` and `plan.json` out, once."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from pruner.calibration import OWN_TEXT, load_calibration
from pruner.checkpoint import load_config, load_model, load_tokenizer, save_model
from pruner.pipeline import PruningSettings, prune
from pruner.plan import PruningPlan
from pruner.progress import Track, silent
from pruner.records import read_records
from pruner.run_folder import RunFolder, content_identity, differences, done_record, filled, mark_done


def is_pruned(run: RunFolder, record: Mapping[str, Any]) -> bool:
    """Whether the folder holds the finished stage of these inputs; see `stage_record`.

    Raises:
        ValueError: it holds one of others.
    """
    finished = done_record(run.pruned)
    if finished is None:
        return False
    finished = filled(finished, {"settings": plain(PruningSettings())})
    if finished != record:
        differing = "; ".join(list(differences(finished, record))[:5])
        raise ValueError(
            f"{run.pruned} was pruned from other inputs (there -> here): {differing}. Choose another run_dir"
        )
    return True


def prune_into(
    run: RunFolder,
    model_name_or_path: str,
    settings: PruningSettings,
    *,
    dtype: str | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
    together: bool = False,
    track: Track = silent,
) -> bool:
    """Prune a model into `run.pruned` and `run.plan`; a finished stage of the same inputs is kept.

    Args:
        run: takes what is made.
        model_name_or_path: the dense model.
        settings: what to remove.
        dtype: of its weights, as saved by default.
        device: where to score and compensate; by default the first GPU, if there is one.
        trust_remote_code: run modelling code that comes with the model.
        together: every process of the default group calls this and they share the samples; the first writes.
        track: sees the work go by.

    Returns:
        False where the finished stage was found and used as it is.

    Raises:
        ValueError: the folder holds a finished stage of other inputs, or the settings cannot be met.
    """
    record = stage_record(model_name_or_path, settings, dtype)
    if is_pruned(run, record):
        return False
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer = load_tokenizer(model_name_or_path, trust_remote_code=trust_remote_code)
    if reads_text(settings):
        load_calibration(settings.calibration, tokenizer)  # too little text is found before weights are read
    model = load_model(model_name_or_path, dtype=dtype, trust_remote_code=trust_remote_code)
    visited = device if by_layer(model, settings, device) else None
    if visited is None:
        model.to(device)
    plan = prune(model, tokenizer, settings, track=track, together=together, visited=visited)
    if not together or torch.distributed.get_rank() == 0:
        plan.save(run.plan)
        shutil.rmtree(run.pruned, ignore_errors=True)
        save_model(model, tokenizer, run.pruned)
        mark_done(run.pruned, record)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return True


def by_layer(model: PreTrainedModel, settings: PruningSettings, device: torch.device) -> bool:
    """Whether the layers visit the device one at a time: told so, or without room for twice the weights."""
    if settings.layer_by_layer is not None or device.type != "cuda":
        return bool(settings.layer_by_layer)
    free, _ = torch.cuda.mem_get_info(device)
    return bool(2 * sum(weight.nbytes for weight in model.parameters()) > free)


def reads_text(settings: PruningSettings) -> bool:
    """Whether the stage cannot do without a text that is given."""
    return settings.plan is None and settings.reads_text and settings.calibration.path != OWN_TEXT


def check_stage(
    model_name_or_path: str, settings: PruningSettings, *, trust_remote_code: bool = False
) -> None:
    """Raise ValueError for what can be seen to be missing before any weight is loaded."""
    load_config(model_name_or_path, trust_remote_code=trust_remote_code)
    streams = settings.compensation.streams if settings.compensation else None
    if streams is not None and not Path(streams).is_dir():
        raise ValueError(f"pruner.compensation.streams must be a folder that is there, got {streams}")
    if settings.plan is not None:
        PruningPlan.load(settings.plan)
    elif reads_text(settings):
        if settings.calibration.path is None:
            raise ValueError(
                f"set pruner.calibration.path: criterion {settings.criterion}, compensation or budget.layers "
                "needs text"
            )
        read_records(settings.calibration.path, settings.calibration.split)


def stage_record(
    model_name_or_path: str, settings: PruningSettings, dtype: str | None = None
) -> dict[str, Any]:
    """What the stage's result depends on: the model's and the texts' content, and every setting."""
    texts = (settings.plan, settings.calibration.path)
    return {
        "model": content_identity(model_name_or_path),
        "dtype": dtype,
        "settings": plain(settings),
        "texts": [content_identity(str(Path(text))) for text in texts if text],
    }


def plain(settings: PruningSettings) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    return values
