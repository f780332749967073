"""The command line of a run: Lightning's CLI with sections `pruner` and `evaluation`, and one `run_dir`."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_modules.callbacks.checkpointing import Checkpointing, latest_checkpoint
from lit_modules.callbacks.interruption import Interruption
from lit_modules.callbacks.progress import Progress
from lit_modules.callbacks.pruning import Pruning
from lit_modules.callbacks.throughput import Throughput
from lit_modules.instruction_data import InstructionData
from lit_modules.progress import bar
from lit_modules.recovery import Recovery
from pruner.evaluation.models import Evaluation, evaluate_models
from pruner.pipeline import PruningSettings
from pruner.run_folder import RunFolder, done_record, mark_done

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "config",
    "run_dir",
    "evaluation",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.plugins",
    "trainer.profiler",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.default_root_dir",
)
"""What a later start of the same run may change: it does not enter the definition of the result."""


class RunCommand(LightningCLI):
    """Parses a run's configuration, builds its parts, and walks its stages as far as a command asks."""

    def __init__(self, args: list[str], name: str) -> None:
        self.name = name
        super().__init__(
            Recovery,
            InstructionData,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults={"enable_checkpointing": False, "use_distributed_sampler": False},
            parser_kwargs={"prog": f"llm-prune {name}"},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what Lightning does not know of: the run folder, the pruner and the evaluation."""
        parser.add_argument("--run_dir", type=str, required=True, help="Folder that takes all the run makes.")
        parser.add_class_arguments(PruningSettings, "pruner")
        parser.add_class_arguments(Evaluation, "evaluation")

    def before_instantiate_classes(self) -> None:
        """Take the run folder, or refuse it, before anything is spent."""
        self.run_folder = RunFolder(Path(self.config.run_dir))
        text = self.parser.dump(self.config, skip_none=False)
        there = self.run_folder.config
        found = definition(yaml.safe_load(there.read_text())) if there.exists() else None
        self.run_folder.claim(text, definition(yaml.safe_load(text)), found)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer around the run folder; `prune` needs none."""
        if self.name == "prune":
            return None
        return super().instantiate_trainer(default_root_dir=str(self.run_folder.root), **kwargs)

    def fit(self) -> int:
        """Prune, recover, evaluate, report; each stage once, however often it is started."""
        run = self.run_folder
        if done_record(run.root) is not None:
            log.info("%s is complete: see %s", run.root, run.report)
            return 0
        if done_record(run.recovered) is None:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=latest_checkpoint(run.checkpoints))
        if self.trainer.is_global_zero:
            self.measure()
            mark_done(run.root, {"stages": ["pruned", "recovered", "report"]})
        return 0


def definition(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that determines a run's result."""

    def prune(node: Mapping[str, Any], at: str) -> dict[str, Any]:
        paths = {key: f"{at}.{key}" if at else str(key) for key in node}
        return {
            key: prune(value, paths[key]) if isinstance(value, Mapping) else value
            for key, value in node.items()
            if paths[key] not in MAY_CHANGE
        }

    return prune(config, "")
