"""Models in and out of folders: from safetensors or GGUF, never from a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.modeling.aside import check_replaceable, written_aside
from pruner.modeling.baichuan import as_llama_config, is_baichuan, load_as_llama
from pruner.modeling.compatible import widen
from pruner.modeling.from_gguf import load_gguf_model, load_gguf_tokenizer, require_gguf
from pruner.modeling.per_layer import is_ours
from pruner.modeling.saving import save_weights
from pruner.modeling.source import Source, files_of, locate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    name_or_path: str | Path, *, dtype: str | torch.dtype | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a causal language model onto the CPU, in evaluation mode.

    Args:
        name_or_path: a model folder, a hub name, a `.gguf` file (dequantised), or
            `package://PACKAGE/FILE.gguf`, a file inside an installed Python package.
        dtype: of the weights, e.g. "bfloat16"; None for the one they were saved in (GGUF: float32).
        trust_remote_code: run model code that lies beside the weights; the code that `save_model` of
            this very release wrote is known and runs without.

    Raises:
        ValueError: there is no such model, its weights are pickled or quantised, it has no language-model
            head, or the code beside it is of another release and not trusted.
    """
    from transformers import AutoModelForCausalLM

    source = locate(str(name_or_path))
    if source.gguf_file:
        return load_gguf_model(source, dtype)
    trust_remote_code = trust_remote_code or is_ours(Path(source.name))
    config = load_config(name_or_path, trust_remote_code=trust_remote_code)
    check_generates(config, name_or_path)
    if is_baichuan(config_values(source, name_or_path)):
        return load_as_llama(files_of(source), config, dtype).eval()
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source.name,
            config=config,
            dtype=dtype or "auto",
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    except OSError as error:
        raise ValueError(unreadable(name_or_path, error)) from error
    return model.eval()


def load_tokenizer(name_or_path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model; `name_or_path` as for `load_model`.

    Without a padding token of its own it pads with its end-of-text token, so whatever masks padding
    must do so by position and not by id, or the model never learns to stop.

    Raises:
        ValueError: there is none, or none that transformers can read.
    """
    from transformers import AutoTokenizer

    source = locate(str(name_or_path))
    if source.gguf_file:
        tokenizer = load_gguf_tokenizer(source)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.name, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            raise ValueError(f"no tokenizer for {name_or_path}: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(
    name_or_path: str | Path, *, trust_remote_code: bool = False, weights: bool = True
) -> PreTrainedConfig:
    """Read a model's configuration without its weights.

    Args:
        name_or_path: as for `load_model`.
        trust_remote_code: as for `load_model`.
        weights: refuse a folder that has none; False where the configuration is all that is wanted.

    Raises:
        ValueError: there is no such model, or its code would have to be trusted first.
    """
    from transformers import AutoConfig

    source = locate(str(name_or_path), weights=weights)
    if source.gguf_file:
        require_gguf()
    trust_remote_code = trust_remote_code or is_ours(Path(source.name))
    values = config_values(source, name_or_path)
    if is_baichuan(values):
        return as_llama_config(values)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source.name, trust_remote_code=trust_remote_code, gguf_file=source.gguf_file
        )
    except OSError as error:
        raise ValueError(unreadable(name_or_path, error)) from error
    return config


def config_values(source: Source, name_or_path: str | Path) -> dict[str, Any]:
    """What config.json says; nothing of a GGUF file."""
    from transformers import PreTrainedConfig

    if source.gguf_file:
        return {}
    try:
        values, _ = PreTrainedConfig.get_config_dict(source.name)
    except OSError as error:
        raise ValueError(unreadable(name_or_path, error)) from error
    return dict(values)


def check_generates(config: PreTrainedConfig, name_or_path: str | Path) -> None:
    """Raise ValueError if no causal language model belongs to `config`, or its weights are quantised."""
    from transformers import AutoModelForCausalLM

    if getattr(config, "quantization_config", None):
        raise ValueError(
            f"{name_or_path} holds quantised weights, which cannot be sliced; give its unquantised original"
        )
    remote = "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if not remote and type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model, which has no causal language-model head; "
            "give a model that AutoModelForCausalLM can load"
        )


def unreadable(name_or_path: str | Path, error: Exception) -> str:
    """What to say of a folder or hub name that transformers could not read."""
    return (
        f"cannot load {name_or_path}: expected a model folder with safetensors weights, a .gguf file, "
        f"package://PACKAGE/FILE.gguf, or a hub name that can be reached from here ({error})"
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path) -> None:
    """Save a model, pruned or not, so that it loads without this project.

    Where a stock class of transformers describes it, as that class. Else as the dense architecture, what
    differs from it, and a small modelling file beside the weights (`trust_remote_code=True`). Which, is
    found by comparing the model with the dense architecture of its configuration.

    Args:
        model: a causal language model, on any device.
        tokenizer: saved beside it; None for none.
        folder: written to the side, then renamed; a model folder that is there is replaced.

    Raises:
        ValueError: `folder` holds something else than a model, or neither form can express the model.
    """
    folder = Path(folder)
    check_replaceable(folder)
    with written_aside(folder) as side:
        save_weights(model, side)
        if tokenizer is not None:
            tokenizer.save_pretrained(side)
        widen(side)
