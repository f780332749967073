"""The memory that `llm-prune resources` foretells, against the peak of a real run of a small model on a CPU.

Every case is a process of its own, so that its peak is its own; what the interpreter and the libraries take
before the model is loaded is subtracted.

    python benchmarks/resources.py
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from lit_modules.demand import Sharing, memory_per_rank
from lit_modules.resources import load_of

RESULT = Path(__file__).parent / "results" / "resources.json"
CONFIG = LlamaConfig(
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=8,
    num_attention_heads=12,
    vocab_size=8192,
    tie_word_embeddings=False,
)
DATA = {"batching": "packed", "pack_length": 256, "max_length": 256, "batch_size": 8}
TRAINER = {"strategy": "auto", "precision": "32-true", "accelerator": "cpu"}
PAPERS = {"r": 8, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear", "options": {}}
CASES = {
    "LoRA": {"lora": PAPERS, "gradient_checkpointing": False},
    "all weights": {"lora": None, "gradient_checkpointing": False},
    "all weights, activations recomputed": {"lora": None, "gradient_checkpointing": True},
}


def foretold(case):
    """Bytes by what needs them."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(CONFIG)
    load = load_of(empty, {**case, "dtype": "auto"}, DATA, TRAINER)
    return memory_per_rank(load, Sharing())


def train(case, folder):
    """Two steps of what recovery does; prints how far memory rose above what it was before the model."""
    from lit_modules.adapters import LoRA, add_adapters
    from lit_modules.objective import learned_logits, summed_cross_entropy
    from pruner.checkpoint import load_model

    import_module("peft")
    torch.set_num_threads(1)
    before = resident()
    model = load_model(folder, dtype=torch.float32)
    model.config.use_cache = False
    if case["gradient_checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = (add_adapters(model, LoRA(**case["lora"])) if case["lora"] else model).train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])
    ids = torch.randint(1, CONFIG.vocab_size, (DATA["batch_size"], DATA["pack_length"]))
    positions = (torch.arange(DATA["pack_length"]) % 64).expand_as(ids)
    for _ in range(2):
        batch = {"input_ids": ids, "position_ids": positions, "labels": ids}
        summed_cross_entropy(*learned_logits(model, batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)


def resident():
    """Bytes of memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(name, folder):
    """Bytes at the peak of one case."""
    at_once = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back
    command = [sys.executable, __file__, name, folder]
    run = subprocess.run(command, env=at_once, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def main():
    if len(sys.argv) > 1:
        train(CASES[sys.argv[1]], sys.argv[2])
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(CONFIG).save_pretrained(folder)
        for name, case in CASES.items():
            needs, peak = foretold(case), measured(name, folder)
            total = sum(needs.values())
            rows[name] = {
                "foretold_mb": {part: round(size / 1e6) for part, size in needs.items() if size},
                "foretold_in_all_mb": round(total / 1e6),
                "measured_mb": round(peak / 1e6),
                "foretold_over_measured": round(total / peak, 3),
            }
            print(name, rows[name], flush=True)
    RESULT.write_text(json.dumps({"batch": "8 rows of 256 tokens", "runs": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
