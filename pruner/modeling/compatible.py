"""What older releases of transformers (4.57) need to read in a folder that 5.x wrote."""

import json
from pathlib import Path
from typing import Any

OLD_NAMES = {"gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}}
"""Model type -> what 4.57 calls an entry of `rope_parameters` where the name is its own."""


def widen(folder: Path) -> None:
    """Add to config.json and tokenizer_config.json what 4.57 reads; 5.x reads them as before."""
    for name, widened in (("config.json", with_old_rope), ("tokenizer_config.json", with_old_tokenizer)):
        path = folder / name
        if path.is_file():
            values = widened(json.loads(path.read_text()))
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def with_old_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Write `rope_theta` and `rope_scaling` too: without them 4.57 silently takes its default theta.

    Entries per kind of layer (`rope_parameters: {"full_attention": …}`) have no common older form.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return config
    plain = rope.get("rope_type", "default") == "default"
    scaling = {
        key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")
    }
    old = {"rope_theta": rope["rope_theta"], "rope_scaling": None if plain else scaling}
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope["partial_rotary_factor"]
    names = OLD_NAMES.get(config["model_type"].removeprefix("pruned_"), {})
    old.update({name: rope[entry] for entry, name in names.items() if entry in rope})
    return {**old, **config}


def with_old_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    """Name the tokenizer's class as both know it."""
    if config.get("tokenizer_class") == "TokenizersBackend":
        config = {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
    if isinstance(config.get("extra_special_tokens"), list):
        config = {**config, "additional_special_tokens": config["extra_special_tokens"]}
        del config["extra_special_tokens"]
    return config
