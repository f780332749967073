"""Which pruning keeps the model: SmolLM2-135M, methods × ratios × seeds, before any recovery.

    python benchmarks/quality.py [--data ../shared/data] [--methods default] [--ratios 0.2] [--seeds 0 1 2]
        [--runs runs/quality]

Calibrates on C4, reports perplexity on the first 20,480 tokens of WikiText-2's test split at windows of 128
and 1,024. A row that benchmarks/results/quality.json has is not made again, and a run that was broken off
goes on from its folder in --runs. LLM-Pruner's row is the better of pruning with and without key-value
groups. Rows after recovery come from benchmarks/recovery.py.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cli
from pruner.calibration import Calibration
from pruner.checkpoint import load_model, load_tokenizer
from pruner.evaluation.perplexity import load_text, perplexity
from pruner.plan import PruningPlan
from pruner.run_folder import write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
WINDOWS = (128, 1024)
MAX_TOKENS = 20_480
NEEDED = {
    "pruner.calibration.path": "calibration/c4_200.jsonl",
    "data.path": "alpaca/alpaca_stanford_uniform.json",
}
REPORTED = "wikitext2/wiki.test.raw"

TAYLOR = {
    "pruner.criterion": "taylor_first",
    "pruner.calibration.num_samples": 10,
    "pruner.calibration.seq_len": 64,
}
LONG_TEXT = {"pruner.calibration.num_samples": 192, "pruner.calibration.seq_len": 128}
DEFAULT = {
    "pruner.criterion": "kronecker",
    "pruner.calibration.num_samples": Calibration.num_samples,
    "pruner.calibration.seq_len": Calibration.seq_len,
}
BIAS_ALONE = "{weights: false, bias: true, drift: 0, epochs: 0}"
METHODS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "llm-pruner": [TAYLOR, {**TAYLOR, "pruner.kinds": "[mlp]"}],
    "gate-fisher": [{**LONG_TEXT, "pruner.criterion": "gate_fisher"}],
    "wanda-sp": [{**LONG_TEXT, "pruner.criterion": "wanda_sp"}],
    "flap": [{**LONG_TEXT, "pruner.criterion": "flap", "pruner.compensation": BIAS_ALONE}],
    "refits alone": [{**DEFAULT, **LONG_TEXT, "pruner.compensation": "{epochs: 0}"}],
    "default": [{**DEFAULT, "pruner.compensation": "{}"}],
}
"""Method -> the settings it may take, of which the better counts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    method: str
    removed: float
    seed: int
    stage: str

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the table is this one."""
        return all(row[name] == getattr(self, name) for name in self.__slots__)


def main() -> None:
    options = parse()
    for case in cases(options):
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        if not any(case.matches(row) for row in rows):
            row = measure(case, options.data, options.runs)
            print(json.dumps(row), flush=True)
            add(RESULTS, row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    for file in (*NEEDED.values(), REPORTED):
        if not (options.data / file).exists():
            parser.error(f"{options.data / file} is missing; --data names the folder that holds it")
    return options


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """The rows asked for, a seed after the other."""
    for seed, removed, method in product(options.seeds, options.ratios, options.methods):
        yield Case(method, removed, seed, "pruned")


def measure(case: Case, data: Path, runs: Path) -> dict[str, Any]:
    """Make the case's model, or the better of its models, and read the text with it."""
    found = []
    for number, settings in enumerate(METHODS[case.method]):
        folder = runs / f"{case.method}-{number}-{case.removed}-{case.seed}"
        make(case, settings, data, folder)
        found.append({**described(case), **perplexities(folder / "pruned", data)})
        if not attention_lost(folder / "plan.json"):
            break  # the settings that leave attention alone would give the same model
    return min(found, key=lambda row: row["perplexity_128"])


def make(case: Case, settings: Mapping[str, Any], data: Path, folder: Path) -> None:
    """Prune into a run folder."""
    arguments = {
        "config": ROOT / "configs/smollm2-135m.yaml",
        "run_dir": folder,
        **{name: data / file for name, file in NEEDED.items()},
        "evaluation.texts": "[]",
        "pruner.budget.ratio": case.removed,
        "pruner.calibration.seed": case.seed,
        **settings,
    }
    if status := cli.main(["prune", *(f"--{name}={value}" for name, value in arguments.items())]):
        raise SystemExit(status)


def described(case: Case) -> dict[str, Any]:
    return {name: getattr(case, name) for name in case.__slots__}


def perplexities(folder: Path, data: Path) -> dict[str, float]:
    """Of a saved model on the reported text, in fp32."""
    model = load_model(str(folder), dtype="float32", trust_remote_code=True)
    ids = load_text(str(data / REPORTED), load_tokenizer(str(folder)), MAX_TOKENS)
    return {f"perplexity_{window}": round(perplexity(model, ids, window), 3) for window in WINDOWS}


def attention_lost(plan: Path) -> bool:
    """Whether any key-value group went."""
    groups = PruningPlan.load(str(plan)).groups.values()
    return any(len(group.kept) < group.num_units for group in groups if group.kind == "attention")


def add(table: Path, row: Mapping[str, Any]) -> None:
    """Put a row under a table, a line each; it takes the place of one with the same words."""
    rows = json.loads(table.read_text()) if table.exists() else []
    words = {name: value for name, value in row.items() if not name.startswith("perplexity")}
    others = [each for each in rows if not words.items() <= each.items()]
    write_text(table, "[\n" + ",\n".join(json.dumps(each) for each in [*others, row]) + "\n]\n")


if __name__ == "__main__":
    main()
