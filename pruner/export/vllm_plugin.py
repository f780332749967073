"""vLLM's plugin: models whose layers differ load without --trust-remote-code."""

import copyreg
from functools import partial
from typing import Any

from pruner.modeling.per_layer import address, imported, render

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Transformers' model types that may have been pruned and that vLLM's transformers backend computes."""

BACKEND = "vllm.model_executor.models.transformers:TransformersForCausalLM"
"""It gives each layer the heads that config.json's `per_layer_config` says."""


def register() -> None:
    """What vLLM calls in each of its processes; makes the pruned architectures known.

    To transformers by name, so that no code beside the weights is run, and to vLLM, if it is installed, as
    models of its transformers backend.
    """
    names = [register_classes(model_type) for model_type in ARCHITECTURES]
    try:
        from vllm import ModelRegistry
    except ModuleNotFoundError:
        return
    for name in names:
        ModelRegistry.register_model(name, BACKEND)


def register_classes(model_type: str) -> str:
    """Register the pruned form of an architecture with transformers' auto classes.

    Args:
        model_type: the dense one's, e.g. "llama".

    Returns:
        The name of the class with the language-model head, as config.json gives it.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[model_type]
    causal, trunk = AutoModelForCausalLM._model_mapping[config], AutoModel._model_mapping[config]
    dense = (config, causal, trunk)
    code = imported(render([address(cls) for cls in dense]), causal.__module__.rpartition(".")[0])
    own_config, own_causal, own_trunk = (getattr(code, f"Pruned{cls.__name__}") for cls in dense)
    AutoConfig.register(own_config.model_type, own_config, exist_ok=True)
    AutoModelForCausalLM.register(own_config, own_causal, exist_ok=True)
    AutoModel.register(own_config, own_trunk, exist_ok=True)
    copyreg.pickle(own_config, partial(reduced, model_type=model_type))
    return str(own_causal.__name__)


def reduced(config: Any, *, model_type: str) -> tuple[Any, ...]:
    """How a configuration is pickled: vLLM's workers unpickle it before they load any plugin."""
    return empty_config, (model_type,), vars(config)


def empty_config(model_type: str) -> Any:
    """A configuration of the pruned form of an architecture, whose entries are set next."""
    from transformers import AutoConfig

    register_classes(model_type)
    cls: Any = type(AutoConfig.for_model(f"pruned_{model_type}"))
    return cls.__new__(cls)
