"""Models that accelerate has spread over devices by a device map, brought together again in main memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel


def is_dispatched(model: nn.Module) -> bool:
    """Whether hooks of accelerate's move a model's inputs or weights between devices."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


@contextmanager
def in_main_memory(model: PreTrainedModel) -> Iterator[torch.device | None]:
    """Meanwhile, and afterwards, a model that has a device map is without one, all of it in main memory.

    Gives the GPU that its layers may visit meanwhile; see `gather`.
    """
    gpu = gather(model)
    try:
        yield gpu
    finally:
        if gpu is not None:
            model.to("cpu")


def gather(model: PreTrainedModel) -> torch.device | None:
    """Take a model off its device map, in place: all of it lies in main memory then, and no hook is left.

    Surgery and refits need weights that stay where they are; `pruner.visiting.layer_by_layer` is what fits
    such a model onto a GPU then. Main memory has to hold all weights.

    Args:
        model: as loaded with `device_map`; any other is left as it is.

    Returns:
        The first GPU of the map, None if there is none.

    Raises:
        ValueError: a weight cannot be read back; the model is as it was.
    """
    if not is_dispatched(model):
        return None
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    gpu = first_gpu(model)
    weights = get_state_dict_offloaded_model(model)
    lost = [name for name, weight in model.named_parameters() if weight.is_meta and name not in weights]
    if lost:
        raise ValueError(f"{lost[0]} cannot be read back from where its device map put it: load without one")
    remove_hook_from_module(model, recurse=True)
    for module in model.modules():
        if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
            del module.forward  # bound to the module by the hook, and the class's own
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights(missing_keys=set(), recompute_mapping=False)  # those that are equal alone
    vars(model).pop("hf_device_map", None)
    model.to("cpu")
    return gpu


def first_gpu(model: nn.Module) -> torch.device | None:
    """The first GPU that a model's device map names, or without a map one of its hooks; None without any."""
    mapped = [place for place in getattr(model, "hf_device_map", {}).values() if place != "disk"]
    hooks = [getattr(module, "_hf_hook", None) for module in model.modules()]
    hooked = [place for hook in hooks if (place := getattr(hook, "execution_device", None)) is not None]
    devices = [
        torch.device("cuda", place) if isinstance(place, int) else torch.device(place)
        for place in (*mapped, *hooked)
    ]
    return next((device for device in devices if device.type != "cpu"), None)
