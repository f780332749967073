"""Runs the gauntlet of tests/gauntlet and writes down what every kill hit and what it changed.

    python benchmarks/gauntlet.py --model shared/data/stories260K [--seed 0]

Writes benchmarks/results/gauntlet.json. The model is any small folder that `llm-prune fit` takes.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tests.gauntlet.killing import CONFIGURATIONS, gauntlet  # noqa: E402

WRONG = ("lost, repeated or reordered", "other rows or loss", "other weights")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start, outcomes = time.perf_counter(), []
    for configuration in CONFIGURATIONS:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(gauntlet(Path(folder), given.model, configuration, given.seed))
        print(configuration, *(f"{key}: {outcomes[-1][key]}" for key in WRONG), flush=True)
    kills = [kill for outcome in outcomes for kill in outcome["kills"]]
    result = {
        "model": given.model.name,
        "seed": given.seed,
        "kills": len(kills),
        "of them": Counter(kill["moment"] for kill in kills),
        "with a half-written checkpoint": sum(bool(kill["half-written"]) for kill in kills),
        "configurations unchanged by them": sum(not any(each[key] for key in WRONG) for each in outcomes),
        "seconds": round(time.perf_counter() - start),
        "configurations": outcomes,
    }
    (HERE / "results/gauntlet.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
