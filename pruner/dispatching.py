"""Models that accelerate has spread over devices by a device map, brought together again in main memory."""

import torch
from torch import nn
from transformers import PreTrainedModel


def is_dispatched(model: nn.Module) -> bool:
    """Whether hooks of accelerate's move a model's inputs or weights between devices."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def gather(model: PreTrainedModel) -> torch.device | None:
    """Take a model off its device map, in place: all of it lies in main memory then, and no hook is left.

    Surgery and refits need weights that stay where they are; `pruner.visiting.layer_by_layer` is what fits
    such a model onto a GPU then. Main memory has to hold all weights.

    Args:
        model: as loaded with `device_map`; any other is left as it is.

    Returns:
        The first GPU on which it ran, None if there was none.

    Raises:
        ValueError: a weight is nowhere to be had.
    """
    if not is_dispatched(model):
        return None
    from accelerate.hooks import remove_hook_from_module
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    hooks = [getattr(module, "_hf_hook", None) for module in model.modules()]
    found = [place for hook in hooks if (place := getattr(hook, "execution_device", None)) is not None]
    weights = get_state_dict_offloaded_model(model)
    remove_hook_from_module(model, recurse=True)
    for module in model.modules():
        vars(module).pop("forward", None)  # its class's own, which the hook had kept
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    vars(model).pop("hf_device_map", None)
    lost = [name for name, weight in model.named_parameters() if weight.is_meta]
    if lost:
        raise ValueError(f"{lost[0]} lies on no device of the model's device map: load it without one")
    model.to("cpu")
    return next((torch.device(place) for place in found if torch.device(place).type != "cpu"), None)
