"""One function for each kind of figure, and what its result depends on."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.evaluation.batching import Result, first_size, halving
from pruner.evaluation.cost import measure_size, measure_speed
from pruner.evaluation.generate import continue_prompts
from pruner.evaluation.harness import Score, run_tasks
from pruner.evaluation.metrics import Row
from pruner.evaluation.perplexity import load_text, perplexity
from pruner.evaluation.repetition import repeated_ngrams
from pruner.evaluation.settings import Evaluation
from pruner.progress import Track
from pruner.run_folder import content_identity

Measure = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Evaluation, Track], Row]


def wanted(settings: Evaluation) -> list[str]:
    """The measurements that `settings` ask for, in the order in which they are made."""
    asked = {
        "size": True,
        "perplexity": bool(settings.texts),
        "tasks": bool(settings.tasks),
        "samples": bool(settings.prompts),
        "speed": settings.speed,
    }
    return [name for name in MEASURES if asked[name]]


def measurement_key(name: str, settings: Evaluation) -> str:
    """Changes with every setting and text that the measurement depends on, beside the model itself."""
    values = {field: getattr(settings, field) for field in (*DEPENDS[name], "dtype", "device")}
    texts = [content_identity(text) for text in values.get("texts", ())]
    digest = hashlib.sha256(json.dumps([values, texts]).encode())
    return digest.hexdigest()[:16]


def _size(model: PreTrainedModel, tokenizer: Any, settings: Evaluation, track: Track) -> Row:
    return dataclasses.asdict(measure_size(model, settings.seq_len))


def _perplexity(model: PreTrainedModel, tokenizer: Any, settings: Evaluation, track: Track) -> Row:
    values = {}
    for text in settings.texts:
        input_ids = load_text(text, tokenizer, settings.max_tokens)
        value = _fitting(
            settings, model, partial(perplexity, model, input_ids, settings.seq_len, track=track)
        )
        values[Path(text).name] = {"value": value, "num_tokens": len(input_ids)}
    return {"seq_len": settings.seq_len, "values": values}


def _tasks(model: PreTrainedModel, tokenizer: Any, settings: Evaluation, track: Track) -> Row:
    def run(batch_size: int) -> dict[str, dict[str, Score]]:
        return run_tasks(
            model,
            tokenizer,
            settings.tasks,
            folder=settings.tasks_folder,
            data=settings.tasks_data,
            limit=settings.limit,
            batch_size=batch_size,
        )

    results = _fitting(settings, model, run)
    values = {
        task: {metric: dataclasses.asdict(score) for metric, score in scores.items()}
        for task, scores in results.items()
    }
    return {"limit": settings.limit, "values": values}


def _fitting(settings: Evaluation, model: PreTrainedModel, work: Callable[[int], Result]) -> Result:
    """`work` with the largest batch size, of those tried, that memory suffices for."""
    return halving(work, settings.batch_size or first_size(model.device))


def _samples(model: PreTrainedModel, tokenizer: Any, settings: Evaluation, track: Track) -> Row:
    samples = continue_prompts(model, tokenizer, settings.prompts, settings.max_new_tokens, track=track)
    repeated = [repeated_ngrams(sample.tokens) for sample in samples]
    values = [{"prompt": sample.prompt, "text": sample.text} for sample in samples]
    return {"repetition": sum(repeated) / len(repeated), "values": values}


def _speed(model: PreTrainedModel, tokenizer: Any, settings: Evaluation, track: Track) -> Row:
    speed = measure_speed(
        model,
        settings.speed_batch_size,
        settings.speed_prompt_tokens,
        settings.speed_new_tokens,
        settings.speed_repeats,
        track,
    )
    rates = ("prefill_tokens_per_second", "decode_tokens_per_second")
    return {**dataclasses.asdict(speed), **{rate: getattr(speed, rate) for rate in rates}}


MEASURES: dict[str, Measure] = {
    "size": _size,
    "perplexity": _perplexity,
    "tasks": _tasks,
    "samples": _samples,
    "speed": _speed,
}

DEPENDS = {
    "size": ("seq_len",),
    "perplexity": ("texts", "seq_len", "max_tokens"),
    "tasks": ("tasks", "tasks_folder", "tasks_data", "limit"),
    "samples": ("prompts", "max_new_tokens"),
    "speed": ("speed_batch_size", "speed_prompt_tokens", "speed_new_tokens", "speed_repeats"),
}
"""The settings that each measurement depends on, beside its dtype and device."""
