"""Brings a teacher in: loaded beside the student, or its answers looked up."""

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lit_modules.distillation import Distillation, LiveTeacher
from lit_modules.isolation import check_isolation, prefer_varlen
from lit_modules.progress import bar
from lit_modules.teacher_cache import Teacher, cache_folder, open_answers, write_answers
from pruner.checkpoint import load_model

log = logging.getLogger(__name__)


def bring_teacher(name: str, settings: Distillation, student: LightningModule, *, packs: bool) -> Teacher:
    """The teacher to ask, or its answers, for which one process of every node asks it first.

    Args:
        name: model folder or hub name.
        settings: what is wanted of it.
        student: the module in training, with its trainer and data attached.
        packs: whether several samples lie in a row.

    Raises:
        ValueError: it would mix the samples of a row, or is to be cached for a stream.
    """
    trainer = student.trainer
    if not settings.cached:
        sharded = settings.device is None and hasattr(trainer.strategy, "serve")
        model = sharded_model(name, student) if sharded else whole_model(name, settings, student)
        if packs:
            prefer_varlen(model, student.device)
            check_isolation(model)
        return LiveTeacher(model, settings)
    data = trainer.datamodule
    if data.portion_size is not None:
        raise ValueError(
            "model.distillation.cached keeps an answer for every example, and data.portion_size never has "
            "all of them; leave one of the two out"
        )
    folder = cache_folder(data.cache_dir, name, settings, [cache.name for cache in data.caches])
    if trainer.local_rank == 0 and not folder.is_dir():
        assert settings.top_k is not None
        teacher = LiveTeacher(whole_model(name, settings, student), settings)
        write_answers(folder, teacher, data.samples.examples, settings.top_k, track=bar)
    trainer.strategy.barrier("teacher's answers")
    return open_answers(folder, data.samples.examples)


def whole_model(name: str, settings: Distillation, student: LightningModule) -> Any:
    """The teacher in this process: in bf16 on a GPU, else in fp32."""
    device = torch.device(settings.device) if settings.device else student.device
    return _frozen(name, device, student).to(device)


def sharded_model(name: str, student: Any) -> Any:
    """The teacher as DeepSpeed holds the student: under ZeRO-3 every rank has its share of the weights."""
    strategy = student.trainer.strategy
    with strategy.model_sharded_context():
        model = _frozen(name, student.device, student)
    if not strategy.zero_stage_3:
        return model.to(student.device)
    served = strategy.serve(model)
    shares = [getattr(weight, "ds_tensor", weight).numel() for weight in served.parameters()]
    log.info("the teacher is sharded: %d of its weights on rank %d", sum(shares), student.global_rank)
    return served


def _frozen(name: str, device: torch.device, student: LightningModule) -> Any:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    trusted = bool(getattr(student, "trust_remote_code", False))
    return load_model(name, dtype=dtype, trust_remote_code=trusted).requires_grad_(False)
