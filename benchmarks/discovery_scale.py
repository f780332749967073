"""Times discovery on models of real size, without weights: CPU seconds and memory, and how both grow.

    python benchmarks/discovery_scale.py [--out FILE]

Each model is discovered in a process of its own. Seconds are those of the CPU, in one thread, after the model
has been built on the meta device; memory is what the process's peak grows by meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, PreTrainedConfig

from pruner.discovery import discover

RESULTS = Path(__file__).parent / "results" / "discovery_scale.json"


def llama(hidden: int, channels: int, layers: int, heads: int) -> LlamaConfig:
    """Llama 3.1 at some size."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=channels,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )


def bloom(hidden: int, layers: int, heads: int) -> BloomConfig:
    """BLOOM at some size."""
    return BloomConfig(vocab_size=250880, hidden_size=hidden, n_layer=layers, n_head=heads)


MODELS: dict[str, PreTrainedConfig] = {
    "Llama-3.1-8B": llama(4096, 14336, 32, 32),
    "Llama-3.1-70B": llama(8192, 28672, 80, 64),
    "BLOOM-176B": bloom(14336, 70, 112),
    **{f"Llama-3.1-8B with {n} layers": llama(4096, 14336, n, 32) for n in (8, 16, 32, 64)},
}


def main() -> None:
    """Measure every model and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for name in MODELS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (name,)))
        print(json.dumps(rows[-1]), flush=True)
    side = options.out.with_suffix(".tmp")
    side.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    os.replace(side, options.out)


def measure(name: str) -> dict[str, Any]:
    """Discover one model."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MODELS[name])
    peak, start = peak_memory(), time.process_time()
    structure = discover(model)
    seconds, grown = time.process_time() - start, peak_memory() - peak
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": len(structure.layers),
        "groups": len(structure.groups),
        "units": sum(group.num_units for group in structure.groups),
        "cpu_seconds": round(seconds, 2),
        "peak_memory_growth_mib": round(grown / 2**20),
    }


def peak_memory() -> int:
    """The process's largest resident size so far, in bytes."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024


if __name__ == "__main__":
    sys.exit(main())
