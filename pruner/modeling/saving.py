"""Saves a model in the form that describes it: a stock class if one does, else per layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.modeling.fields import changed_fields
from pruner.modeling.per_layer import (
    CODE,
    address,
    own_classes,
    per_layer_config,
    rebuild,
    render,
)
from pruner.modeling.stock import stock_model
from pruner.modeling.widths import (
    Modules,
    build,
    dense_config,
    differences,
    settled,
    sizes,
    stock_class,
    structure,
    with_head_dim,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Save configuration, weights and, where it is needed, code.

    Raises:
        ValueError: neither form can express the model.
    """
    cls = stock_class(type(model))
    config = with_head_dim(cls, dense_config(model.config))
    config.dtype = model.dtype
    dense = structure(build(cls, config))
    unsaved = {name for name, _ in model.named_non_persistent_buffers()}
    own = settled(structure(model, shared=model.config), dense, unsaved)
    fields = changed_fields(cls, config, sizes(own), sizes(dense))
    classes = own_classes(model, cls)
    values = per_layer_config(config, classes, differences(own, dense), fields)
    code = render([address(one) for one in classes])
    stock = stock_model(rebuild(code, cls, values, own), own, dense, fields)
    if stock is not None:
        save_stock(model, stock, folder)
        return
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
        if key in dense[owner] and list(buffer.shape) != dense[owner][key]:
            state[name] = buffer
    return state
