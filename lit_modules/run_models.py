"""The model that a run has made so far: `recovered/`, what a checkpoint adds to `pruned/`, or `pruned/`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_modules.adapters import LoRA, with_weights
from lit_modules.callbacks.checkpoint_folder import MANIFEST, STATE, flaws, latest_checkpoint
from lit_modules.shards import PATTERN, read_whole
from pruner.checkpoint import load_model
from pruner.run_folder import RunFolder, done_record

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a recovery had made of the pruned model at a step.

    Attributes:
        pruned: the folder that the recovery started from.
        step: optimizer steps made.
        lora: its adapters; None where all weights were trained.
        weights: name in the model, with its adapters if any -> value.
        trust: run model code that lies in `pruned`, beyond this project's own.
    """

    pruned: Path
    step: int
    lora: LoRA | None
    weights: dict[str, Tensor]
    trust: bool = False

    def adapted(self) -> Any:
        """The pruned model with the adapters as trained, a PeftModel.

        Raises:
            ValueError: there are none, as all weights were trained.
        """
        if self.lora is None:
            raise ValueError(f"the recovery of {self.pruned} trained all weights: no adapter; export as hf")
        return self._with_weights()

    def merged(self) -> "PreTrainedModel":
        """The model as it would be written into `recovered/`, in the type of `pruned/`."""
        model = self._with_weights()
        merged: PreTrainedModel = model.merge_and_unload() if self.lora else model
        return merged

    def _with_weights(self) -> Any:
        pruned = load_model(self.pruned, trust_remote_code=self.trust)
        return with_weights(pruned, self.lora, self.weights).eval()


def newest_made(place: str | Path) -> Path | None:
    """The folder of the newest model of a run, or the checkpoint that holds it.

    Args:
        place: a run folder, its `checkpoints/`, or one checkpoint.

    Returns:
        None where `place` is none of these, as a model folder, a file or a hub name.

    Raises:
        ValueError: it is a run that has made no model yet, or whose checkpoints are all damaged.
    """
    folder = Path(place)
    if is_checkpoint(folder):
        return folder
    run = RunFolder(folder.parent if folder.name == "checkpoints" else folder)
    if not run.config.is_file() or (folder / "config.json").is_file():
        return None
    if folder == run.root and done_record(run.recovered) is not None:
        return run.recovered
    state = latest_checkpoint(run.checkpoints)
    if state is not None:
        return state.parent
    if folder == run.root and done_record(run.pruned) is not None:
        return run.pruned
    raise ValueError(
        f"{folder} is a run that has made no model yet: expected a complete pruned/, checkpoints/ or "
        "recovered/; start it again with `llm-prune fit`"
    )


def run_of(made: Path) -> RunFolder | None:
    """The run that a model folder or checkpoint lies in, None for none."""
    root = made.resolve().parents[1] if is_checkpoint(made) else made.resolve().parent
    return RunFolder(root) if made.is_dir() and RunFolder(root).config.is_file() else None


def is_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint of a recovery lies there, whole or damaged."""
    return (folder / MANIFEST).is_file() or (folder / STATE).is_file()


def read_checkpoint(folder: Path, *, trust: bool = False) -> Checkpoint:
    """Read what a checkpoint adds to `pruned/`, under any strategy that wrote it.

    Args:
        folder: `checkpoints/step-…` of a run, where it was written: frozen weights lie in the run.
        trust: run model code that lies in the run's `pruned/`.

    Raises:
        ValueError: it is damaged, or the run's pruned model is missing or another.
    """
    wrong = list(flaws(folder))
    if wrong:
        raise ValueError(f"checkpoint {folder} is damaged: {'; '.join(wrong[:3])}; take another of the run")
    state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    identity, pruned = state["recovery"]["identity"], RunFolder(folder.resolve().parents[1]).pruned
    if done_record(pruned) is None or done_record(pruned) != identity["pruned"]:
        raise ValueError(
            f"checkpoint {folder} belongs to a pruned model that does not lie at {pruned}; export it from "
            "within its run folder"
        )
    sharded = any(folder.glob(PATTERN))
    weights = read_whole(folder, identity["trained"]) if sharded else state["state_dict"]
    return Checkpoint(
        pruned=pruned,
        step=state["global_step"],
        lora=LoRA(**identity["lora"]) if identity["lora"] else None,
        weights={name.removeprefix("model."): value for name, value in weights.items()},
        trust=trust,
    )
