"""Models in and out of folders: from safetensors or GGUF, never from a pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.modeling.compatible import widen
from pruner.modeling.fields import changed_fields
from pruner.modeling.from_gguf import load_gguf_model, load_gguf_tokenizer, require_gguf
from pruner.modeling.per_layer import (
    CODE,
    address,
    check_rebuilds,
    is_ours,
    own_classes,
    per_layer_config,
    render,
)
from pruner.modeling.source import locate
from pruner.modeling.stock import stock_model
from pruner.modeling.widths import (
    Modules,
    build,
    dense_config,
    differences,
    sizes,
    stock_class,
    structure,
    with_head_dim,
)

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
        ValueError: there is no such model, its weights are pickled or quantised, or it has no
            language-model head.
    """
    from transformers import AutoModelForCausalLM

    source = locate(str(name_or_path))
    if source.gguf_file:
        return load_gguf_model(source, dtype)
    trust_remote_code = trust_remote_code or is_ours(Path(source.name))
    config = load_config(name_or_path, trust_remote_code=trust_remote_code)
    check_generates(config, name_or_path)
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


def load_config(name_or_path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read a model's configuration without its weights; `name_or_path` as for `load_model`.

    Raises:
        ValueError: there is no such model, or its code would have to be trusted first.
    """
    from transformers import AutoConfig

    source = locate(str(name_or_path))
    if source.gguf_file:
        require_gguf()
    trust_remote_code = trust_remote_code or is_ours(Path(source.name))
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source.name, trust_remote_code=trust_remote_code, gguf_file=source.gguf_file
        )
    except OSError as error:
        raise ValueError(unreadable(name_or_path, error)) from error
    return config


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


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Save configuration, weights and, where it is needed, code."""
    cls = stock_class(type(model))
    config = with_head_dim(cls, dense_config(model.config))
    config.dtype = model.dtype
    dense = structure(build(cls, config))
    own = structure(model, shared=model.config)
    fields = changed_fields(cls, config, sizes(own), sizes(dense))
    stock = stock_model(cls, config, own, dense, fields)
    if stock is not None:
        save_stock(model, stock, folder)
        return
    classes = own_classes(model, cls)
    code = render([address(one) for one in classes])
    values = per_layer_config(config, classes, differences(own, dense), fields)
    check_rebuilds(code, values, own)
    model.save_pretrained(folder, save_original_format=False, state_dict=all_tensors(model, dense))
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    (folder / CODE).write_text(code)


def save_stock(model: PreTrainedModel, stock: PreTrainedModel, folder: Path) -> None:
    """Save the weights of `model` as those of a stock model without storage of its own."""
    stock.load_state_dict(model.state_dict(), assign=True)
    stock.tie_weights()
    stock.generation_config = model.generation_config
    stock.save_pretrained(folder)


def all_tensors(model: PreTrainedModel, dense: Modules) -> dict[str, torch.Tensor]:
    """The state dict, and buffers that it leaves out although they are no longer the architecture's own."""
    state: dict[str, torch.Tensor] = model.state_dict()
    for name, buffer in model.named_non_persistent_buffers():
        owner, _, key = name.rpartition(".")
        if list(buffer.shape) != dense[owner].get(key):
            state[name] = buffer
    return state


def check_replaceable(folder: Path) -> None:
    """Raise ValueError if `folder` is there and is no model folder, so that nothing else is lost."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds files but no model; choose a new folder, or an empty one")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a model is saved as a folder")


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when all is written, and vanishes on an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    side = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    side.chmod(0o755)
    try:
        yield side
        if folder.exists():
            before = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.replace(folder, before / folder.name)
            os.replace(side, folder)
            shutil.rmtree(before)
        else:
            os.replace(side, folder)
    finally:
        shutil.rmtree(side, ignore_errors=True)
