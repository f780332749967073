"""Learning from the dense model: forward KL between its next-token distributions and the student's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_modules.objective import learned_logits
from lit_modules.schedules import Schedule, rate_factor
from pruner.checkpoint import load_config, load_tokenizer


@dataclass(frozen=True)  # without slots: jsonargparse reads vars() of a default
class Distillation:
    """How much is learned from a teacher, and from what of it.

    Attributes:
        weight: share of the divergence in the loss, the rest is cross-entropy; in (0, 1].
        schedule: how the share develops over the run: constant, or linear or cosine down to 0.
        temperature: both distributions are flattened by it; the divergence is scaled by its square, so
            gradients keep their size (Hinton et al. 2015, 2.1).
        top_k: so many of the teacher's likeliest tokens count one by one and all others as one;
            null: all tokens.
        teacher: model folder or hub name; null: the dense model.
        device: where the teacher runs, e.g. cuda:1 or cpu; null: beside the student. On a GPU in bf16.
        cached: ask the teacher once for every example and keep its top_k on disk, for data that is seen
            several times; 6 bytes per learned token and k.
    """

    weight: float = 0.5
    schedule: Schedule = "constant"
    temperature: float = 1.0
    top_k: int | None = 64
    teacher: str | None = None
    device: str | None = None
    cached: bool = False

    def check(self, student: str, *, trust_remote_code: bool = False) -> None:
        """Raise ValueError where settings cannot work, or the teacher has another vocabulary."""
        if not (0 < self.weight <= 1 and self.temperature > 0 and (self.top_k is None or self.top_k > 0)):
            raise ValueError(
                "model.distillation needs weight in (0, 1], temperature > 0 and top_k > 0 or null, got "
                f"{self.weight}, {self.temperature}, {self.top_k}"
            )
        if self.cached and self.top_k is None:
            raise ValueError("model.distillation.cached keeps top_k tokens each; set top_k, e.g. 64")
        if self.teacher is not None:
            check_vocabulary(self.teacher, student, trust_remote_code=trust_remote_code)

    def weight_at(self, step: int, total: int) -> float:
        """Share of the divergence at optimizer step `step` of `total`."""
        return self.weight * rate_factor(self.schedule, step, 0, total)


def check_vocabulary(teacher: str, student: str, *, trust_remote_code: bool = False) -> None:
    """Raise ValueError unless both give every token the same id and their logits the same width."""
    ours, theirs = (
        load_tokenizer(name, trust_remote_code=trust_remote_code).get_vocab() for name in (student, teacher)
    )
    widths = [
        load_config(name, trust_remote_code=trust_remote_code).get_text_config().vocab_size
        for name in (student, teacher)
    ]
    if ours != theirs or widths[0] != widths[1]:
        differing = len(set(ours.items()) ^ set(theirs.items()))
        raise ValueError(
            f"model.distillation.teacher {teacher} has another vocabulary than {student}: "
            f"{widths[1]} logits instead of {widths[0]}, {differing} entries differ; its distributions mean "
            "nothing to the student. Leave teacher out to learn from the dense model"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Likeliest:
    """A teacher's distributions over the next token, at the temperature asked for.

    Attributes:
        log_probabilities: (num_learned, k), in nats.
        tokens: (num_learned, k) int64 ids; None: all tokens in order.
    """

    log_probabilities: Tensor
    tokens: Tensor | None


def likeliest(logits: Tensor, temperature: float, top_k: int | None) -> Likeliest:
    """The `top_k` likeliest tokens of each row of (num_learned, vocabulary) logits."""
    log_probabilities = (logits.float() / temperature).log_softmax(-1)
    if top_k is None or top_k >= logits.shape[-1]:
        return Likeliest(log_probabilities, None)
    return Likeliest(*log_probabilities.topk(top_k, dim=-1))


def summed_divergence(logits: Tensor, teacher: Likeliest, temperature: float) -> Tensor:
    """KL(teacher ‖ student) summed over learned tokens, times temperature², in nats, in fp32.

    The tokens beyond the teacher's top k count as one; the sum over this partition is a lower bound of
    the divergence over all tokens and reaches it where k is the vocabulary.

    logits: (num_learned, vocabulary) of the student.
    """
    student = (logits.float() / temperature).log_softmax(-1)
    wanted = teacher.log_probabilities.to(student)
    if teacher.tokens is not None:
        student = student.gather(-1, teacher.tokens.to(student.device))
        student, wanted = (torch.cat([each, log_rest(each)], dim=-1) for each in (student, wanted))
    divergence: Tensor = temperature**2 * (wanted.exp() * (wanted - student)).sum()
    return divergence


def log_rest(log_probabilities: Tensor) -> Tensor:
    """(num, 1) log of what (num, k) probabilities leave to one, no less than rounding can tell."""
    whole = log_probabilities.logsumexp(-1, keepdim=True).clamp(max=-1e-6)
    return torch.log(-torch.expm1(whole))


@dataclass(frozen=True, slots=True, eq=False)
class LiveTeacher:
    """A teacher that is run on every batch, its weights beside the student's, not among them."""

    model: Any
    settings: Distillation

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Likeliest:
        """Its distributions at a batch's learned tokens."""
        device = self.model.device
        there = {name: each.to(device) for name, each in batch.items() if isinstance(each, Tensor)}
        logits, _ = learned_logits(self.model, there)
        return likeliest(logits, self.settings.temperature, self.settings.top_k)
