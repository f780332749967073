"""Runs the suite on llama.cpp itself and writes down what came of it.

    python benchmarks/llamacpp.py

Needs llama-cpp-python (docs/export.md). Writes benchmarks/results/llamacpp.json.
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def suite(marker, tests):
    """How many cases of a marked suite passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcome.xml"
        command = [sys.executable, "-m", "pytest", "-m", marker, tests, f"--junitxml={file}"]
        subprocess.run(command, cwd=ROOT, check=False)
        (outcome,) = ElementTree.parse(file).getroot().iter("testsuite")
    count = {key: int(outcome.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    bad = count["failures"] + count["errors"]
    return {
        "passed": count["tests"] - bad - count["skipped"],
        "failed": bad,
        "skipped": count["skipped"],
    }


@torch.no_grad()
def difference(kind, tokenizer, folder):
    """Largest difference between llama.cpp's logits and torch's over 40 tokens, float32, in nats."""
    from tests.pruner.export.to_gguf.conftest import model_of
    from tests.pruner.export.to_gguf.test_llama_cpp import logits, written

    model, ids = model_of(kind), torch.arange(40)
    llama = written(model, tokenizer, Path(folder) / "out.gguf")
    found, expected = logits(llama, ids.tolist()), model(ids[None]).logits[0]
    return {
        "largest difference": float((found - expected).abs().max()),
        "largest logit": float(expected.abs().max()),
    }


def main():
    from pruner.checkpoint import load_tokenizer
    from tests.conftest import DATA
    from tests.pruner.export.to_gguf.conftest import KINDS

    tokenizer = load_tokenizer(DATA / "stories260K")
    with tempfile.TemporaryDirectory() as folder:
        kinds = {kind: difference(kind, tokenizer, folder) for kind in KINDS}
    result = {
        "llama-cpp-python": __import__("llama_cpp").__version__,
        "torch": version("torch"),
        "cases": suite("llamacpp", "tests/pruner/export/to_gguf"),
        "largest logit difference": max(each["largest difference"] for each in kinds.values()),
        "kinds": kinds,
    }
    text = json.dumps(result, indent=1) + "\n"
    (ROOT / "benchmarks/results/llamacpp.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
