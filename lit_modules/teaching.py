"""Brings a teacher in: loaded beside the student, or its answers looked up."""

import torch
from lightning.pytorch import LightningModule

from lit_modules.distillation import Distillation, LiveTeacher
from lit_modules.isolation import check_isolation, prefer_varlen
from lit_modules.progress import bar
from lit_modules.teacher_cache import Teacher, cache_folder, open_answers, write_answers
from pruner.checkpoint import load_model


def bring_teacher(name: str, settings: Distillation, student: LightningModule, *, packs: bool) -> Teacher:
    """The teacher to ask, or its answers, for which one process of every node asks it first.

    Args:
        name: model folder or hub name.
        settings: what is wanted of it.
        student: the module in training, with its trainer and data attached.
        packs: whether several samples lie in a row.

    Raises:
        ValueError: it would mix the samples of a row.
    """
    if not settings.cached:
        return live_teacher(name, settings, student, packs=packs)
    trainer, data = student.trainer, student.trainer.datamodule
    folder = cache_folder(data.cache_dir, name, settings, [cache.name for cache in data.caches])
    if trainer.local_rank == 0 and not folder.is_dir():
        assert settings.top_k is not None
        teacher = live_teacher(name, settings, student, packs=False)
        write_answers(folder, teacher, data.examples, settings.top_k, track=bar)
    trainer.strategy.barrier("teacher's answers")
    return open_answers(folder, data.examples)


def live_teacher(name: str, settings: Distillation, student: LightningModule, *, packs: bool) -> LiveTeacher:
    """Load the teacher: in bf16 on a GPU, else in fp32."""
    device = torch.device(settings.device) if settings.device else student.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    trusted = bool(getattr(student, "trust_remote_code", False))
    model = load_model(name, dtype=dtype, trust_remote_code=trusted).to(device).requires_grad_(False)
    if packs:
        prefer_varlen(model, device)
        check_isolation(model)
    return LiveTeacher(model, settings)
