"""Loads a model sharded by DeepSpeed ZeRO-3, and writes what rank 0 found.

Arguments: a model folder, the `expected.safetensors` of the model in memory, and the JSON file to write.
Started in every process by `torch.distributed.run`.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
import transformers
from safetensors.torch import load_file
from transformers.integrations import HfDeepSpeedConfig

SETTINGS = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1}


def main(folder: str, expected_path: str, found_path: str) -> None:
    """Load, gather all weights, compute."""
    deepspeed.init_distributed(dist_backend="gloo")
    sharding = HfDeepSpeedConfig(SETTINGS)  # transformers shards while this object lives
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    del sharding
    found = {
        "sharded": all(hasattr(parameter, "ds_id") for parameter in model.parameters()),
        "tied": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
    }
    expected = load_file(expected_path)
    with deepspeed.zero.GatheredParameters(list(model.parameters())), torch.no_grad():
        found["error"] = (model(expected["input_ids"]).logits - expected["logits"]).abs().max().item()
    if torch.distributed.get_rank() == 0:
        Path(found_path).write_text(json.dumps(found))


main(*sys.argv[1:])
