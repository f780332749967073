"""`llm-prune resources`: the words of `fit`, and a table instead of a run."""

from typing import Any

import rich
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser
from rich.table import Table

from lit_modules.command import RunCommand
from lit_modules.demand import hours, memory_per_rank
from lit_modules.resources import (
    PUBLISHED,
    Extent,
    extent_of,
    load_of,
    pruned_shapes,
    row_length,
    sharing_of,
    with_teacher,
)
from lit_modules.sources import weights_of
from pruner.pipeline import PruningSettings
from pruner.records import read_records

DEVICES = {
    "rtx4090": (24.0, 165.0),
    "a100-40g": (40.0, 312.0),
    "a100-80g": (80.0, 312.0),
    "h100": (80.0, 989.0),
    "h200": (141.0, 989.0),
}
"""Name -> memory in 10⁹ bytes, and dense bf16 operations in 10¹² per second, by its data sheet."""

USABLE = 0.92
"""Share of a device's memory that tensors can have: the rest is its context and gaps between them."""


class ResourcesCommand(RunCommand):
    """Parses a run's configuration and says what the run will need, without building or claiming anything."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what an estimate needs to be told."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--device", default="a100-80g", help=f"Of a rank: {', '.join(DEVICES)}, or own.")
        parser.add_argument("--memory_gb", type=float, help="Of each rank's device, in 10⁹ bytes.")
        parser.add_argument("--tflops", type=float, help="Of each rank's device at its peak, in 10¹²/s.")
        parser.add_argument("--mfu", type=float, default=0.35, help="Share of the peak that is reached.")
        parser.add_argument("--samples", type=int, help="Records of the data, where it is not at hand.")
        parser.add_argument("--mean_length", type=float, help="Tokens of a record; default: max_length.")

    def instantiate_classes(self) -> None:
        """Build no part of the run but the pruning settings."""
        parser = ArgumentParser()
        parser.add_class_arguments(PruningSettings, "pruner")
        self.settings = parser.instantiate(Namespace(pruner=self.config.pruner)).pruner

    def after_instantiate_classes(self) -> None:
        """Claim nothing."""

    def estimate(self) -> int:
        """Print the table.

        Raises:
            ValueError: the run does not fit into a rank's memory, or the configuration leaves open what an
                estimate needs.
        """
        config, trainer = self.config, self.config.trainer
        memory_gb, tflops = device_of(config.device, config.memory_gb, config.tflops)
        sharing = sharing_of(trainer)
        name, trusted = config.model.model_name_or_path, config.model.trust_remote_code
        empty = pruned_shapes(name, self.settings, trust_remote_code=trusted)
        load = load_of(empty, config.model, config.data, trainer)
        teaching = config.model.distillation
        if teaching and not teaching.cached:
            on_gpu = trainer["accelerator"] != "cpu"
            load = with_teacher(load, teaching.teacher or name, on_gpu=on_gpu, beside=not teaching.device)
        needs = memory_per_rank(load, sharing)
        samples = config.samples or num_samples(config.data)
        mean_length = config.mean_length or float(config.data.max_length)
        extent = extent_of(config.data, trainer, sharing, samples, mean_length)
        duration = hours(extent.tokens, load, sharing, tflops * 1e12, config.mfu)
        rich.print(table(needs, extent, duration))
        check_fits(needs, memory_gb, config.device, row_length(config.data))
        return 0


def device_of(name: str, memory_gb: float | None, tflops: float | None) -> tuple[float, float]:
    """Memory in 10⁹ bytes and operations in 10¹² per second of a device, as known or as given.

    Raises:
        ValueError: neither.
    """
    known = DEVICES.get(name, (memory_gb, tflops))
    memory, speed = memory_gb or known[0], tflops or known[1]
    if memory is None or speed is None:
        raise ValueError(
            f"--device must be one of {', '.join(DEVICES)}, or come with --memory_gb and --tflops; got {name}"
        )
    return memory, speed


def num_samples(data: Any) -> float:
    """Records that are learned in one pass: as published, or counted in the files.

    Raises:
        ValueError: a data set of the hub of unknown size.
    """
    total = 0.0
    for name, weight in weights_of(data.path).items():
        if name not in PUBLISHED and name.count("/") == 1 and "." not in name.split("/")[1]:
            raise ValueError(f"data.path {name}: its size is not known; give --samples")
        total += weight * (PUBLISHED.get(name) or sum(1 for _ in read_records(name, data.split)))
    return total * (1.0 - float(data.validation_share))


def table(needs: dict[str, float], extent: Extent, duration: float) -> Table:
    """What is needed, a line each."""
    lines = Table("memory of each rank", "GB", title="resources")
    for name, size in needs.items():
        if name != "offloaded":
            lines.add_row(name, f"{size / 1e9:.2f}")
    lines.add_row("in all", f"{on_device(needs) / 1e9:.2f}", style="bold")
    if needs["offloaded"]:
        lines.add_row("offloaded, in CPU memory", f"{needs['offloaded'] / 1e9:.2f}")
    lines.add_section()
    lines.add_row("optimizer steps", f"{extent.steps:,}")
    lines.add_row("samples", f"{extent.samples:,.0f}")
    lines.add_row("tokens, padding among them", f"{extent.tokens:,.0f}")
    lines.add_row("hours", f"{duration:.1f}")
    return lines


def on_device(needs: dict[str, float]) -> float:
    """Bytes that lie in the rank's own memory."""
    return sum(size for name, size in needs.items() if name != "offloaded")


def check_fits(needs: dict[str, float], memory_gb: float, device: str, length: int) -> None:
    """Raise ValueError where the need exceeds what tensors can have of the device."""
    need, usable = on_device(needs) / 1e9, USABLE * memory_gb
    if need > usable:
        largest = max((name for name in needs if name != "offloaded"), key=lambda name: needs[name])
        raise ValueError(
            f"each rank needs {need:.1f} GB and a {device} has {usable:.1f} to give (92 % of {memory_gb:g}); "
            f"most of it is {largest}. {WAYS_OUT[largest].format(length=length)}"
        )


WAYS_OUT = {
    "weights": "Use trainer.strategy: deepspeed_stage_3 on more ranks, or model.dtype: bf16.",
    "gradients": "Use trainer.strategy: deepspeed_stage_2 on more ranks, or model.lora.",
    "optimizer": "Use trainer.strategy: deepspeed_stage_2 on more ranks or with _offload, or model.lora.",
    "activations": "Lower data.batch_size, or set model.gradient_checkpointing: true.",
    "logits": "Lower data.batch_size, or data.pack_length (rows have {length} tokens).",
    "teacher": "Set model.distillation.cached: true, or give it a device of its own.",
    "buckets": "Use trainer.strategy: deepspeed_stage_2.",
}
