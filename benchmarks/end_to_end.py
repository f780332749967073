"""SmolLM2-135M pruned by a fifth with LLM-Pruner's protocol, recovered on Alpaca: the table before/after.

    python benchmarks/end_to_end.py [--data ../shared/data] [--steps 80] [any option of `llm-prune fit`]

Calibrates on 10 × 64 tokens of C4, recovers by LoRA on Alpaca records, reports perplexity on WikiText-2's
test split, which neither saw. Writes benchmarks/results/end_to_end.json with the command that made it.
"""

import argparse
import json
from pathlib import Path

import cli

HERE = Path(__file__).parent
ROOT = HERE.parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/end-to-end"))
    options, overrides = parser.parse_known_args()
    for needed in (
        "calibration/c4_200.jsonl",
        "alpaca/alpaca_stanford_uniform.json",
        "wikitext2/wiki.test.raw",
    ):
        if not (options.data / needed).exists():
            parser.error(f"{options.data / needed} is missing; --data names the folder that holds it")
    arguments = {
        "config": ROOT / "configs/smollm2-135m.yaml",
        "run_dir": options.run_dir,
        "pruner.calibration.path": options.data / "calibration/c4_200.jsonl",
        "data.path": options.data / "alpaca/alpaca_stanford_uniform.json",
        "evaluation.texts": f"[{options.data / 'wikitext2/wiki.test.raw'}]",
        "trainer.max_steps": options.steps,
    }
    if status := cli.main(["fit", *(f"--{name}={value}" for name, value in arguments.items()), *overrides]):
        raise SystemExit(status)
    write_result(options.run_dir, options.steps)


def write_result(run_dir: Path, steps: int) -> None:
    """Keep of `metrics.json` and `plan.json` what a reader of the table wants."""
    plan = json.loads((run_dir / "plan.json").read_text())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    result = {
        "command": f"python benchmarks/end_to_end.py --steps {steps}",
        "steps": steps,
        "budget": plan["budget"],
        "criterion": plan["criterion"],
        "models": metrics["models"],
    }
    for row in result["models"].values():
        for private in ("samples", "path"):
            row.pop(private, None)
    (HERE / "results" / "end_to_end.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
