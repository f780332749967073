"""Discovery looks and does not touch."""

import copy

import pytest
import torch

from benchmarks.tiny_configs import tiny_model
from pruner.discovery import discover


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        (name, kind): list(getattr(module, kind)) for name, module in model.named_modules() for kind in kinds
    }


def attributes(model):
    """Every plain attribute of every module, its configuration's entries too."""
    return {
        name: {key: value for key, value in vars(module).items() if type(value) in (int, float, bool, str)}
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("name", ["llama", "bloom", "mixtral", "gpt2"])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_before(name, training):
    model = tiny_model(name).train(training)
    model.lm_head.register_forward_pre_hook(lambda module, args: None)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    identities = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    buffers = {key: tensor.clone() for key, tensor in model.named_buffers()}
    before = copy.deepcopy((hooks(model), attributes(model), model.config.to_dict()))
    discover(model)
    assert (hooks(model), attributes(model), model.config.to_dict()) == before
    assert {key: tensor.data_ptr() for key, tensor in model.state_dict().items()} == identities
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in state.items())
    assert all(torch.equal(dict(model.named_buffers())[key], tensor) for key, tensor in buffers.items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert next(model.parameters()).grad is not None
    assert {module.training for module in model.modules()} == {training}


def test_random_numbers_go_on_as_if_nothing_had_happened():
    model = tiny_model("llama")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    discover(model)
    assert torch.equal(torch.rand(4), expected)


def test_attention_and_experts_stay_implemented_as_they_were():
    model = tiny_model("mixtral")
    model.set_attn_implementation("sdpa")
    model.set_experts_implementation("eager")
    discover(model)
    assert model.config._attn_implementation == "sdpa"
    assert model.config._experts_implementation == "eager"


def test_the_device_and_dtype_of_the_weights_change_nothing():
    def named(model):
        return [(group.name, group.kind, group.num_units) for group in discover(model).groups]

    expected = named(tiny_model("phi3"))
    assert named(tiny_model("phi3", "meta")) == expected
    assert named(tiny_model("phi3", dtype=torch.bfloat16)) == expected
