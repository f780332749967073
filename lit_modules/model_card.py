"""A run's model card: base model, what was removed, data and recipe, what was measured, how to load."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pruner.checkpoint import config_values
from pruner.evaluation.metrics import read_metrics
from pruner.evaluation.removal import Width, widths
from pruner.evaluation.summary import figures
from pruner.export import ARCHITECTURES
from pruner.modeling.source import PACKAGE, locate
from pruner.plan import PruningPlan
from pruner.run_folder import CARD, RunFolder, write_text

TAGS = ["llm-prune", "pruned", "structured-pruning"]

TRANSFORMERS = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}"{trust})
tokenizer = AutoTokenizer.from_pretrained("{place}")
```"""

ADAPTER = """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

pruned = AutoModelForCausalLM.from_pretrained("pruned", trust_remote_code=True)  # of the same run
model = PeftModel.from_pretrained(pruned, "{place}")
```"""

LLAMA_CPP = """```sh
llm-prune export --model {place} --output model.gguf --format gguf-f16
llama-cli --model model.gguf
```"""

VLLM = """```sh
vllm serve {place}{options}
```"""


def write_cards(run: RunFolder) -> None:
    """Write README.md into `pruned/` and `recovered/`, those of them that are there."""
    for folder in (run.pruned, run.recovered):
        if folder.is_dir():
            write_card(run, folder)


def write_card(run: RunFolder, folder: Path) -> None:
    """Write README.md into a folder that was made from a run: a model's or an adapter's."""
    write_text(folder / CARD, model_card(run, folder))


def model_card(run: RunFolder, folder: Path) -> str:
    """The card in Markdown, with the metadata that hubs read.

    Args:
        run: has the configuration, and the plan and measurements if it is that far.
        folder: `pruned/`, `recovered/`, or an export of either.
    """
    from huggingface_hub import ModelCardData

    config = yaml.safe_load(run.config.read_text()) or {}
    base = str(config.get("model", {}).get("model_name_or_path", "unknown"))
    license_name = licence_of(base)
    data = ModelCardData(
        base_model=base if is_hub_name(base) else None,
        license=license_name,
        library_name="peft" if is_adapter(folder) else "transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
    )
    parts = [
        f"# {shown(base)}, pruned" + (" and recovered" if folder != run.pruned else ""),
        f"Made with llm-prune from `{shown(base)}`, licence: {license_name or 'see the base model'}.",
        *removal(run),
        *recovery(config, folder, run),
        *measured(run),
        "## Use",
        *use(folder),
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def removal(run: RunFolder) -> Iterator[str]:
    """What the plan took away, in words and by layer."""
    if not run.plan.is_file():
        return
    plan = PruningPlan.load(run.plan)
    budget, text = plan.budget, plan.calibration
    yield "## What was removed"
    if "parameters" in budget and "reached_ratio" in budget:
        yield (
            f"{budget['reached_ratio']:.1%} of the decoder's parameters; of the whole model "
            f"{plan.model['parameters']:,} → {budget['parameters']:,}."
        )
    yield (
        f"Units were chosen by `{plan.criterion}`"
        + (
            " on {num_samples} × {seq_len} tokens of {name}".format(**text, name=shown(text["path"]))
            if text
            else ""
        )
        + (", and what remains was refitted towards the dense model." if plan.compensation else ".")
    )
    yield table(
        ["layer", *(kinds := widths(plan))],
        [[str(layer), *map(width, row)] for layer, row in enumerate(zip(*kinds.values()))],
    )


def recovery(config: Mapping[str, Any], folder: Path, run: RunFolder) -> Iterator[str]:
    """Data and recipe of the fine-tuning."""
    if folder == run.pruned:
        yield "Not fine-tuned after pruning: this is the input of a recovery."
        return
    model, data = config.get("model", {}), config.get("data", {})
    lora = model.get("lora")
    how = f"LoRA of rank {lora['r']}, alpha {lora['alpha']}" if lora else "all weights trained"
    sources = data.get("path")
    names = [sources] if isinstance(sources, str) else [str(each) for each in sources or []]
    yield "## How it was recovered"
    yield (
        f"Fine-tuned on {', '.join(map(shown, names)) or 'unknown data'}: {how}, learning rate "
        f"{model.get('learning_rate')}, {model.get('schedule')} schedule"
        + (", beside the dense model's logits" if model.get("distillation") else "")
        + "."
    )


def measured(run: RunFolder) -> Iterator[str]:
    """The table before and after, where it was measured."""
    models = read_metrics(run.metrics)
    if models:
        yield "## Measured"
        rows = [[figure.name, *map(figure.show, models)] for figure in figures(models)]
        yield table(["", *models], rows)


def use(folder: Path) -> Iterator[str]:
    """How each runtime loads what lies in `folder`."""
    place = folder.name
    if is_adapter(folder):
        yield ADAPTER.format(place=place)
        return
    config = json.loads((folder / "config.json").read_text())
    per_layer = "auto_map" in config
    yield TRANSFORMERS.format(place=place, trust=", trust_remote_code=True" if per_layer else "")
    yield "llama.cpp, where the architecture is Llama's, Mistral's or Qwen2's:"
    yield LLAMA_CPP.format(place=place)
    if per_layer and config["model_type"].removeprefix("pruned_") not in ARCHITECTURES:
        return
    yield "vLLM" + (", with llm-prune installed beside it:" if per_layer else ":")
    yield VLLM.format(place=place, options=" --model-impl transformers" if own_head_width(config) else "")


def own_head_width(config: Mapping[str, Any]) -> bool:
    """Whether it is a Qwen2 with fewer heads, whose width vLLM's own code takes for that of all together."""
    return bool(
        config["model_type"] == "qwen2"
        and config.get("head_dim", 0) * config["num_attention_heads"] not in (0, config["hidden_size"])
    )


def licence_of(base: str) -> str | None:
    """What the base model's card or configuration, as it lies on this machine, says of its licence."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    card = Path(base) / CARD if Path(base).is_dir() else None
    if is_hub_name(base):
        cached = try_to_load_from_cache(base, CARD)
        card = Path(cached) if isinstance(cached, str) else None
    stated = (
        ModelCard.load(card, ignore_metadata_errors=True).data.license if card and card.is_file() else None
    )
    if stated is None and Path(base).is_dir():
        stated = config_values(locate(base), base).get("license")
    return str(stated) if stated else None


def is_hub_name(base: str) -> bool:
    """Whether a model is named as hubs name it, owner/name, and is no path."""
    return not base.startswith((PACKAGE, ".", "/", "~")) and base.count("/") == 1 and not Path(base).exists()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    return (folder / "adapter_config.json").is_file()


def shown(place: str) -> str:
    """A place's name without the folders it lies in, which are nobody's business."""
    return Path(place).name if Path(place).exists() or place.startswith((PACKAGE, "/")) else place


def width(units: Width | None) -> str:
    """A cell of the table of layers; a plan may leave out what loses nothing."""
    return f"{units.dense} → {units.kept}" if units and units.removed else "all"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
