"""What older releases of transformers (4.57) need to read in a folder that 5.x wrote."""

import json
from pathlib import Path
from typing import Any

OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
"""Model type -> what 4.57 calls an entry of `rope_parameters` where the name is its own."""


def widen(folder: Path) -> None:
    """Add to config.json and tokenizer_config.json what 4.57 reads; 5.x reads them as before."""
    for name, widened in (("config.json", with_old_entries), ("tokenizer_config.json", with_old_tokenizer)):
        path = folder / name
        if path.is_file():
            values = widened(json.loads(path.read_text()))
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def with_old_entries(config: dict[str, Any]) -> dict[str, Any]:
    """Write rotary embeddings as 4.57 reads them; where there is code beside the weights, that does it."""
    from pruner.modeling.remote.modeling_pruned import with_old_rope

    if "auto_map" in config:
        return config
    rope = config.get("rope_parameters") or {}
    names = OLD_NAMES.get(config["model_type"], {})
    old: dict[str, Any] = with_old_rope(config)
    return {**{name: rope[entry] for entry, name in names.items() if entry in rope}, **old}


def with_old_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """Name the tokenizer's class as both know it, and what it gives: older releases add token types."""
    if config.get("tokenizer_class") == "TokenizersBackend":
        config = {"model_input_names": ["input_ids", "attention_mask"], **config}
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config = {**config, "additional_special_tokens": config["extra_special_tokens"]}
        del config["extra_special_tokens"]
    return config
