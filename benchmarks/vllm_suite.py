"""Runs the suite on vLLM itself and writes down what came of it.

    python benchmarks/vllm_suite.py

Needs vLLM, with this project installed beside it (docs/export.md). Writes benchmarks/results/vllm.json.
"""

import json
from importlib.metadata import version

import vllm
from llamacpp import ROOT, suite


def main():
    result = {
        "vllm": vllm.__version__,
        **{name: version(name) for name in ("torch", "transformers")},
        "cases": suite("vllm", "tests/pruner/export/test_vllm_plugin.py"),
    }
    text = json.dumps(result, indent=1) + "\n"
    (ROOT / "benchmarks/results/vllm.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
