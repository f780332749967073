"""DeepSpeed as this project runs it: ZeRO 1 to 3 on CUDA and CPU, loaded sharded, saved without pickles."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_modules.deepspeed_config import STAGES, asked, reconcile
from lit_modules.shards import read_shards, write_shard


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's DeepSpeed strategy, also on CPU (gloo); its checkpoints are safetensors that any number
    of ranks can read at any ZeRO stage.

    In a configuration: `trainer.strategy: deepspeed_stage_2` (or 1, 3, `_offload` for 2 and 3), or this
    class by its path, with Lightning's options, `config` among them: a DeepSpeed JSON file.
    """

    def setup_environment(self) -> None:
        """Check the DeepSpeed configuration against the trainer, then bring up the processes."""
        assert self.lightning_module is not None
        assert isinstance(self.config, dict)
        reconcile(self.config, asked(self.lightning_module.trainer))
        warnings.filterwarnings("ignore", ".*DeepSpeed handles gradient clipping internally")  # as meant here
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
            return
        use_cpu()
        self.parallel_devices = [torch.device("cpu", index) for index in range(self.num_processes)]
        DDPStrategy.setup_environment(self)  # skips Lightning's refusal of anything but CUDA

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Under ZeRO-3 let `from_pretrained` load sharded: no rank holds the whole model.

        Lightning's own context would turn RoPE's frequencies into bf16.
        """
        from transformers.integrations import HfDeepSpeedConfig

        self._init_config_if_needed()
        sharding = HfDeepSpeedConfig(self.config) if self.zero_stage_3 else None  # acts while it lives
        yield
        del sharding

    def serve(self, model: nn.Module) -> nn.Module:
        """Make a frozen model, loaded within `model_sharded_context` under ZeRO-3, ready to run.

        Each rank goes on holding its share, and a layer's weights come together while it runs; all ranks
        must run it in step with one another.
        """
        import deepspeed

        config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": 3},
            "bf16": {"enabled": next(model.parameters()).dtype == torch.bfloat16},
        }
        engine, *_ = deepspeed.initialize(model=model, config=config)
        served: nn.Module = engine.module
        return served

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Divide the loss by the accumulated batches once: Lightning has done it, DeepSpeed would again."""
        loss: Tensor = super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)
        return loss

    def optimizer_step(self, optimizer: Optimizer, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        """Step, and tell the module whether DeepSpeed dropped the step for a non-finite gradient."""
        engine = self.deepspeed_engine
        steps, skipped = engine.global_steps, engine.skipped_steps
        result = super().optimizer_step(optimizer, closure, model, **kwargs)
        if engine.global_steps > steps:
            assert self.lightning_module is not None
            self.lightning_module.count_step(finite=engine.skipped_steps == skipped)
        return result

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: the weights are written by `save_checkpoint`, each rank its share."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Nothing, for the same reason."""
        return {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write rank 0's record of the run, and beside it every rank's shard; waits for no other rank."""
        engine = self.deepspeed_engine
        step = checkpoint["global_step"]
        assert engine.global_steps == step, f"engine at step {engine.global_steps}, trainer at {step}"
        groups = [{**group, "params": None} for group in engine.optimizer.param_groups]
        record = {"skipped_steps": engine.skipped_steps, "param_groups": groups}
        Strategy.save_checkpoint(self, {**checkpoint, "deepspeed": record}, filepath, storage_options)
        write_shard(Path(filepath).parent, self.lightning_module, engine.optimizer, self.global_rank)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the record of the run; the shards follow once the module has accepted it.

        Raises:
            ValueError: the checkpoint was not written under DeepSpeed.
        """
        checkpoint: dict[str, Any] = Strategy.load_checkpoint(self, checkpoint_path, weights_only=True)
        if "deepspeed" not in checkpoint:
            raise ValueError(
                f"{checkpoint_path} was not written under DeepSpeed; take the run's former "
                "trainer.strategy back, or choose another run_dir"
            )
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Set this rank's weights, optimizer state and the engine's counters."""
        engine, step, record = self.deepspeed_engine, checkpoint["global_step"], checkpoint["deepspeed"]
        for group, saved in zip(engine.optimizer.param_groups, record["param_groups"]):
            group.update({**saved, "params": group["params"]})
        read_shards(Path(checkpoint["folder"]), self.lightning_module, engine.optimizer, self.global_rank)
        engine.global_steps = step
        engine.micro_steps = step * engine.gradient_accumulation_steps()
        engine.global_samples = step * engine.train_batch_size()
        engine.skipped_steps = record["skipped_steps"]


def use_cpu() -> None:
    """Let DeepSpeed compute on the CPU also where it has found a GPU."""
    from deepspeed.accelerator import get_accelerator, set_accelerator

    if get_accelerator().device_name() != "cpu":
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        set_accelerator(CPU_Accelerator())


def register_strategies() -> None:
    """Let Lightning's names for DeepSpeed mean `DeepSpeed`."""
    for stage in STAGES:
        name = f"deepspeed_stage_{stage}"
        StrategyRegistry.register(name, DeepSpeed, f"DeepSpeed ZeRO {stage}", override=True, stage=stage)
    for stage in (2, 3):
        StrategyRegistry.register(
            f"deepspeed_stage_{stage}_offload",
            DeepSpeed,
            f"DeepSpeed ZeRO {stage}, offloaded to the CPU's memory",
            override=True,
            stage=stage,
            offload_optimizer=True,
            offload_parameters=stage == 3,
        )
    StrategyRegistry.register("deepspeed", DeepSpeed, "DeepSpeed ZeRO 2", override=True)
