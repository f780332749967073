"""The command line of a run: Lightning's CLI with sections for pruning and evaluation, and one `run_dir`."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rich
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from lit_modules.callbacks.checkpointing import Checkpointing
from lit_modules.callbacks.export import Export
from lit_modules.callbacks.interruption import EXIT_CODE, Interrupted, Interruption
from lit_modules.callbacks.progress import Progress
from lit_modules.callbacks.pruning import Pruning
from lit_modules.callbacks.throughput import Throughput
from lit_modules.instruction_data import InstructionData
from lit_modules.model_card import write_cards
from lit_modules.progress import bar
from lit_modules.recovery import Recovery
from lit_modules.strategies import register_strategies
from pruner.evaluation.models import Evaluation, evaluate_models
from pruner.evaluation.models import check as check_evaluation
from pruner.evaluation.summary import terminal_table
from pruner.pipeline import PruningSettings
from pruner.run_folder import RunFolder, done_record, filled, mark_done
from pruner.stages import check_stage
from slurm.settings import Slurm

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "config",
    "run_dir",
    "evaluation",
    "checkpointing",
    "slurm",
    "data.num_workers",
    "data.cache_dir",
    "trainer.accelerator",
    "trainer.accumulate_grad_batches",
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

    config_init: Any

    def __init__(self, args: list[str], name: str) -> None:
        self.name = name
        register_strategies()
        for chatty in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        super().__init__(
            Recovery,
            InstructionData,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults={
                "enable_checkpointing": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "num_sanity_val_steps": 0,
            },
            parser_kwargs={"prog": f"llm-prune {name}"},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what Lightning does not know of, and say once what several parts need."""
        parser.add_argument("--run_dir", type=str, required=True, help="Folder that takes all the run makes.")
        parser.add_class_arguments(PruningSettings, "pruner")
        parser.add_class_arguments(Evaluation, "evaluation")
        parser.add_class_arguments(Checkpointing, "checkpointing", skip={"folder"}, instantiate=False)
        parser.add_class_arguments(Slurm, "slurm", instantiate=False)
        for name in ("model_name_or_path", "trust_remote_code"):
            parser.link_arguments(f"model.{name}", f"data.{name}")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse what is given; Lightning would warn that `sys.argv` holds more, the command's name."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Know where things go."""
        self.run_folder = RunFolder(Path(self.config.run_dir))

    def after_instantiate_classes(self) -> None:
        """Check the inputs, then take the run folder or refuse it, before anything is spent."""
        settings, model = self.config_init.pruner, self.model
        check_stage(model.model_name_or_path, settings, trust_remote_code=model.trust_remote_code)
        check_evaluation(self.config_init.evaluation)
        text = self.parser.dump(self.config, skip_none=False)
        there = self.run_folder.config
        found = None
        if there.exists():
            defaults = yaml.safe_load(
                self.parser.dump(
                    self.parser.get_defaults(skip_validation=True), skip_none=False, skip_validation=True
                )
            )
            found = definition(filled(yaml.safe_load(there.read_text()), defaults))
        self.run_folder.claim(text, definition(yaml.safe_load(text)), found)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer | None:
        """Build the trainer around the run folder; `prune` needs none."""
        if self.name == "prune":
            return None
        config = {**self.config_init.trainer, "default_root_dir": str(self.run_folder.root), **kwargs}
        if config["logger"] in (None, True):
            config["logger"] = default_loggers(self.run_folder)
        if SLURMEnvironment.detect():
            config["plugins"] = [*as_list(config["plugins"]), SLURMEnvironment(auto_requeue=False)]
        return self._instantiate_trainer(config, self.callbacks())

    def callbacks(self) -> list[Callback]:
        """What makes Lightning's fit the recovery stage of the path, in the order it is asked."""
        self.checkpointing = Checkpointing(self.run_folder.checkpoints, **self.config_init.checkpointing)
        return [
            Pruning(self.config_init.pruner, self.run_folder, track=bar),
            self.checkpointing,
            Interruption(self.checkpointing),
            Throughput(),
            *([Progress()] if self.config_init.trainer["enable_progress_bar"] is not False else []),
            Export(self.run_folder),
        ]

    def fit(self) -> int:
        """Prune, recover, evaluate, report; each stage once, however often it is started."""
        run = self.run_folder
        if done_record(run.root) is not None:
            log.info("%s is complete: see %s", run.root, run.report)
            return 0
        if status := self.recover():
            return status
        if self.trainer.is_global_zero:
            self.measure()
            mark_done(run.root, {"report": run.report.name})
        return 0

    def recover(self) -> int:
        """Stop after `recovered/`."""
        if done_record(self.run_folder.recovered) is None:
            try:
                self.trainer.fit(
                    self.model,
                    self.datamodule,
                    ckpt_path=self.checkpointing.resume_from,
                    weights_only=True,
                )
            except Interrupted as interrupted:
                log.warning("%s", interrupted)
                return EXIT_CODE
        return 0

    def prune(self) -> int:
        """Stop after `pruned/` and `plan.json`."""
        stage = Pruning(self.config_init.pruner, self.run_folder, track=bar)
        model = self.model
        stage.prune(model.model_name_or_path, trust_remote_code=model.trust_remote_code, track=bar)
        return 0

    def validate(self) -> int:
        """Log the held-out loss of the newest model the run has made."""
        run = self.run_folder
        made = [folder for folder in (run.recovered, run.pruned) if done_record(folder) is not None]
        self.model.pruned_folder = made[0] if made else None
        self.model.lora = None
        self.trainer.validate(self.model, self.datamodule)
        return 0

    def measure(self) -> None:
        """Evaluate dense, pruned and recovered into `metrics.json` and draw `report.html`."""
        run, start = self.run_folder, time.perf_counter()
        models = {
            "dense": self.model.model_name_or_path,
            "pruned": str(run.pruned),
            "recovered": str(run.recovered),
        }
        rows = evaluate_models(models, self.config_init.evaluation, run.root, track=bar)
        write_cards(run)
        rich.print(terminal_table(rows))
        log.info("measured and drawn: %s (%.0f s)", run.report, time.perf_counter() - start)


def as_list(value: Any) -> list[Any]:
    """What may be one thing, several or none, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def default_loggers(run: RunFolder) -> list[Logger]:
    """CSV always, TensorBoard where it is installed, both in the run's `logs/`."""
    loggers: list[Logger] = [CSVLogger(run.root, name=run.logs.name)]
    try:
        from lightning.pytorch.loggers import TensorBoardLogger

        loggers.append(TensorBoardLogger(run.root, name=run.logs.name, version=""))
    except ImportError:
        log.debug("no tensorboard: CSV logs only")
    return loggers


def definition(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that determines a run's result."""

    def without(node: Mapping[str, Any], at: str) -> dict[str, Any]:
        paths = {key: f"{at}.{key}" if at else str(key) for key in node}
        return {
            key: without(value, paths[key]) if isinstance(value, Mapping) else value
            for key, value in node.items()
            if paths[key] not in MAY_CHANGE
        }

    return without(config, "")
