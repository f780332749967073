"""Recovery: the pruned model is trained, by LoRA or in full, until it speaks again (Ma et al. 2023, 3.3)."""

import logging
import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lit_modules.adapters import LoRA, add_adapters
from lit_modules.collation import IGNORED
from lit_modules.distillation import Distillation, summed_divergence
from lit_modules.isolation import check_isolation, prefer_varlen
from lit_modules.objective import learned_logits, summed_cross_entropy
from lit_modules.schedules import Schedule, scheduler
from lit_modules.teacher_cache import Teacher
from lit_modules.teaching import bring_teacher
from lit_modules.trained import global_norm, trained, trained_shapes, trained_weights
from pruner.checkpoint import load_model
from pruner.run_folder import differences, done_record

log = logging.getLogger(__name__)

PAPERS_LORA = LoRA()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Recovery(LightningModule):
    """Trains what pruning left, on the response tokens of instruction records."""

    strict_loading = False

    def __init__(
        self,
        model_name_or_path: str,
        lora: LoRA | None = PAPERS_LORA,
        distillation: Distillation | None = None,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup_steps: int = 100,
        schedule: Schedule = "linear",
        dtype: Literal["auto", "fp32", "bf16"] = "auto",
        gradient_checkpointing: bool = False,
        max_skipped_steps: int = 10,
        trust_remote_code: bool = False,
    ) -> None:
        """Keep the settings; nothing is loaded before `configure_model`.

        Args:
            model_name_or_path: the dense model; recovery starts from what pruning made of it.
            lora: the adapters; null trains all weights.
            distillation: learn from the dense model too; null: from the records alone.
            learning_rate: peak of the schedule.
            weight_decay: AdamW's, on everything that is trained.
            betas: AdamW's.
            warmup_steps: optimizer steps until the peak.
            schedule: what follows the warmup.
            dtype: of the frozen weights (adapters are fp32), or of all where lora is null; auto: bf16
                under LoRA on a GPU, else fp32.
            gradient_checkpointing: recompute activations in the backward pass.
            max_skipped_steps: so many steps in a row may have a non-finite gradient before the run stops.
            trust_remote_code: run model code that lies beside the weights.
        """
        super().__init__()
        for name, value in {"learning_rate": learning_rate, "max_skipped_steps": max_skipped_steps}.items():
            if not value > 0:
                raise ValueError(f"model.{name} must be positive, got {value}")
        if distillation:
            distillation.check(model_name_or_path, trust_remote_code=trust_remote_code)
        self.model_name_or_path = model_name_or_path
        self.lora = lora
        self.distillation = distillation
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.betas = betas
        self.warmup_steps = warmup_steps
        self.schedule: Schedule = schedule
        self.dtype_name = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.max_skipped_steps = max_skipped_steps
        self.trust_remote_code = trust_remote_code
        self.pruned_folder: Path | None = None
        self.num_skipped = 0
        self.model: nn.Module | None = None
        self.teacher: Teacher | None = None

    def configure_model(self) -> None:
        """Load the pruned model, once, and put the adapters on."""
        if self.model is not None:
            return
        source, trusted = self.source
        model = load_model(source, dtype=self.weights_dtype, trust_remote_code=trusted)
        model.config.use_cache = False
        if self.packs:
            prefer_varlen(model, self.trainer.strategy.root_device)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model = add_adapters(model, self.lora) if self.lora else model
        self.model.train()

    @property
    def source(self) -> tuple[Path | str, bool]:
        """The model that recovery starts from, and whether code beside its weights may run."""
        if self.pruned_folder is not None:
            return self.pruned_folder, True
        return self.model_name_or_path, self.trust_remote_code

    def trained_weights(self) -> dict[str, Tensor]:
        """Name -> value of all that is trained, on rank 0; all ranks call this."""
        return trained_weights(self, keep=self.trainer.is_global_zero)

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of the loaded weights; raises ValueError where the trainer would cast the adapters."""
        precision = str(self.trainer.precision)
        if self.lora and precision.endswith("-true") and precision != "32-true":
            raise ValueError(
                f"trainer.precision {precision} would cast the adapters, which stay in fp32; leave it at "
                "32-true and choose model.dtype"
            )
        if self.dtype_name != "auto":
            return DTYPES[self.dtype_name]
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return torch.bfloat16 if self.lora and on_gpu else torch.float32

    def on_train_start(self) -> None:
        """Bring the teacher in; raise ValueError where samples are packed and a model would mix them."""
        if self.packs:
            check_isolation(self.model)
        if self.distillation:
            name = self.distillation.teacher or self.model_name_or_path
            self.teacher = bring_teacher(name, self.distillation, self, packs=self.packs)

    @property
    def packs(self) -> bool:
        """Whether the data puts several samples into one row."""
        return getattr(self.trainer.datamodule, "batching", None) == "packed"

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The batch's part of the step's mean loss per learned token, in nats."""
        logits, targets = learned_logits(self.model, batch)
        loss = summed_cross_entropy(logits, targets)
        if self.distillation:
            loss = self._distilled(self.distillation, loss, logits, batch)
        loss = loss / float(batch["mean_targets"])
        self.log("loss", loss, prog_bar=True, batch_size=len(batch["rows"]))
        return loss

    def _distilled(
        self, settings: Distillation, loss: Tensor, logits: Tensor, batch: dict[str, Any]
    ) -> Tensor:
        """The loss with its part of the divergence from the teacher."""
        assert self.teacher is not None
        weight = settings.weight_at(self.global_step, int(self.trainer.estimated_stepping_batches))
        divergence = summed_divergence(logits, self.teacher(batch), settings.temperature)
        self.log("divergence", divergence.detach() / batch["mean_targets"], batch_size=len(batch["rows"]))
        return (1 - weight) * loss + weight * divergence

    def on_validation_epoch_start(self) -> None:
        """Start the held-out sums."""
        self.held_out = torch.zeros(2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add the batch's loss and number of learned tokens to the held-out sums."""
        loss = summed_cross_entropy(*learned_logits(self.model, batch))
        self.held_out += torch.stack([loss, (batch["labels"] != IGNORED).sum()]).to(self.held_out)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out mean loss per learned token, over all ranks."""
        total, count = self.trainer.strategy.reduce(self.held_out, reduce_op="sum").tolist()
        self.log("val_loss", total / max(1.0, count), prog_bar=True, rank_zero_only=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW on what is trained, with the warmup and schedule asked for."""
        weights = [weight for _, weight in trained(self)]
        optimizer = torch.optim.AdamW(
            weights, lr=self.learning_rate, betas=self.betas, weight_decay=self.weight_decay
        )
        total = int(self.trainer.estimated_stepping_batches)
        rates = scheduler(optimizer, self.schedule, min(self.warmup_steps, total // 10 + 1), total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as asked; drop a step whose gradient is not finite, which leaves all state as it was.

        DeepSpeed, whose gradients are parted, does both itself.
        """
        if hasattr(self.trainer.strategy, "deepspeed_engine"):
            return
        finite = math.isfinite(float(global_norm(self.parameters())))
        if finite:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            optimizer.zero_grad(set_to_none=True)
        self.count_step(finite=finite)

    def count_step(self, *, finite: bool) -> None:
        """Take note of a step that was made or, for its non-finite gradient, dropped on all ranks.

        Raises:
            ValueError: `max_skipped_steps` in a row were dropped.
        """
        if finite:
            self.num_skipped = 0
            return
        self.num_skipped += 1
        log.warning("step %d skipped: its gradient is not finite", self.global_step)
        if self.num_skipped >= self.max_skipped_steps:
            raise ValueError(
                f"{self.num_skipped} steps in a row had a non-finite gradient; lower model.learning_rate, "
                "or set trainer.gradient_clip_val. The last checkpoint is from before the trouble."
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint's weights and optimizer state belong to."""
        return {
            "pruned": done_record(self.pruned_folder) if self.pruned_folder else self.model_name_or_path,
            "lora": self.lora.described() if self.lora else None,
            "optimizer": {
                "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay,
                "betas": list(self.betas),
                "warmup_steps": self.warmup_steps,
                "schedule": self.schedule,
            },
            "trained": trained_shapes(self),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out: they lie in the pruned folder."""
        state, names = checkpoint["state_dict"], trained_shapes(self)
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in names}
        checkpoint["recovery"] = {"identity": self.identity, "num_skipped": self.num_skipped}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another run's checkpoint, or one that lacks a trained weight.

        Raises:
            ValueError: naming what differs or is missing.
        """
        saved = checkpoint["recovery"]
        differing = list(differences(saved["identity"], self.identity))
        if differing:
            raise ValueError(
                "the checkpoint is of another recovery (there -> here): " + "; ".join(differing[:5])
            )
        sharded = hasattr(self.trainer.strategy, "deepspeed_engine")  # which looks for every weight itself
        missing = sorted(set(trained_shapes(self)) - set(checkpoint["state_dict"]))
        if missing and not sharded:
            raise ValueError(
                f"the checkpoint lacks {len(missing)} trained weights, first {missing[0]}; if it was written "
                "under DeepSpeed, take the run's former trainer.strategy back"
            )
        self.num_skipped = saved["num_skipped"]
