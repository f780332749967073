import gc
import weakref

import pytest
import torch

from pruner.importance import estimate_importance
from pruner.importance.activations import project
from pruner.importance.kronecker import gradient_covariances


def inputs_of(model, module, samples):
    """What one linear module reads, (tokens, in)."""
    seen = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(input_ids=samples, use_cache=False)
    handle.remove()
    return seen[0].flatten(0, 1)


def slow_wanda(weight, rows):
    return torch.stack(
        [(weight[:, i].abs() * rows[:, i].square().mean().sqrt()).sum() for i in range(len(rows.T))]
    )


def slow_flap(weight, rows):
    return torch.stack(
        [rows[:, i].var(unbiased=False) * weight[:, i].square().sum() for i in range(len(rows.T))]
    )


@pytest.mark.parametrize(("criterion", "slow"), [("wanda_sp", slow_wanda), ("flap", slow_flap)])
def test_scores_from_streamed_moments_are_those_from_all_activations(tiny, groups, samples, criterion, slow):
    scores = estimate_importance(tiny, groups, samples, criterion, batch_size=2)
    for group in groups:
        (piece,) = (piece for piece in group.slices if piece.reads)
        weight = tiny.get_parameter(piece.name).detach()
        expected = slow(weight, inputs_of(tiny, piece.name.removesuffix(".weight"), samples))
        units = expected[torch.as_tensor(piece.index)].sum(1)
        torch.testing.assert_close(scores[group.name], units, rtol=1e-4, atol=1e-9)


def test_a_channel_that_never_varies_costs_nothing_to_flap(tiny, groups, samples):
    mlp = tiny.model.layers[1].mlp
    with torch.no_grad():
        mlp.up_proj.weight[5] = 0
    scores = estimate_importance(tiny, groups, samples, "flap")
    assert scores["model.layers.1.mlp"][5] == 0
    assert scores["model.layers.1.mlp"].count_nonzero() == mlp.up_proj.out_features - 1


@pytest.mark.parametrize("criterion", ["wanda_sp", "flap", "gate_taylor", "gate_fisher"])
def test_what_is_not_finite_names_the_sample_it_came_up_in(tiny, groups, samples, criterion):
    """Of the last of two batches, one of whose inputs to a projection overflows."""
    module, batches = "model.layers.0.mlp.down_proj", []

    def overflow(_module, args):
        batches.append(args[0].clone())
        if len(batches) == 2:
            batches[1][1] = torch.inf
        return batches[-1]

    found = pytest.raises(ValueError, match=rf"({module} are not finite on|loss of) calibration sample 5\b")
    with tiny.get_submodule(module).register_forward_pre_hook(overflow), found:
        estimate_importance(tiny, groups, samples, criterion, batch_size=4)


@pytest.mark.parametrize("criterion", ["gate_taylor", "gate_fisher", "covariances"])
def test_a_gradient_that_overflows_names_the_module_and_the_sample(tiny, groups, samples, criterion):
    """In a loss that is finite."""
    module, outputs = "model.layers.0.mlp.down_proj", []

    def overflow(_module, _args, output):
        outputs.append(output.requires_grad_())
        if len(outputs) == 2:
            output.register_hook(lambda grad: torch.stack([grad[0], grad[1] * torch.inf]))

    found = pytest.raises(ValueError, match=rf"gradients at {module} are not finite on calibration sample 5:")
    with tiny.get_submodule(module).register_forward_hook(overflow), found:
        if criterion == "covariances":
            gradient_covariances(tiny, project(tiny, groups), samples, batch_size=4)
        else:
            estimate_importance(tiny, groups, samples, criterion, batch_size=4)


@pytest.mark.parametrize("criterion", ["wanda_sp", "flap", "covariances"])
def test_a_projection_that_reads_some_tokens_alone_is_scored_and_watched(tiny, groups, samples, criterion):
    """As the projections of an expert do; which of the samples a token came from is not known there."""
    mlp, overflow = tiny.model.layers[0].mlp, [False]

    def routed(hidden):
        inner = (mlp.act_fn(mlp.gate_proj(hidden)) * mlp.up_proj(hidden)).flatten(0, 1)
        chosen = inner[5:] * (torch.inf if overflow[0] else 1)
        return torch.cat([torch.zeros(5, 16), mlp.down_proj(chosen)]).view_as(hidden)

    def score():
        if criterion == "covariances":
            return gradient_covariances(tiny, project(tiny, groups), samples, batch_size=4)
        return estimate_importance(tiny, groups, samples, criterion, batch_size=4)

    mlp.forward = routed
    assert all(scores.any() for scores in score().values())
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.down_proj reads only the tokens that a router"):
        estimate_importance(tiny, groups, samples, "gate_fisher", batch_size=4)
    overflow[0] = True
    with pytest.raises(
        ValueError, match=r"one of the calibration samples 0 to 3|loss of calibration sample 0"
    ):
        score()


def test_scores_that_only_the_walk_gives_are_refused(tiny, groups, samples):
    with pytest.raises(ValueError, match="within the walk over the layers"):
        estimate_importance(tiny, groups, samples, "kronecker")


@pytest.mark.parametrize("criterion", ["wanda_sp", "flap", "l2"])
def test_a_weight_that_is_not_finite_is_found_behind_the_last_activation_too(
    tiny, groups, samples, criterion
):
    tiny.model.layers[5].mlp.down_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"model.layers.5.mlp.*(are not finite: its|not finite on all)"):
        estimate_importance(tiny, groups, samples, criterion)


@pytest.mark.parametrize("criterion", ["gate_taylor", "gate_fisher", "wanda_sp", "covariances"])
def test_no_activation_outlives_its_pass(tiny, groups, samples, criterion):
    """Without waiting for the garbage collector, to which a few large tensors look like little."""
    seen = []
    for name, module in tiny.named_modules():
        if name.endswith("_proj"):
            module.register_forward_hook(
                lambda _module, args, output: seen.extend(map(weakref.ref, (*args, output)))
            )
    gc.collect()
    gc.disable()
    try:
        if criterion == "covariances":
            gradient_covariances(tiny, project(tiny, groups), samples, batch_size=2)
        else:
            estimate_importance(tiny, groups, samples, criterion, batch_size=2)
        assert seen
        assert not any(ref() is not None for ref in seen)
    finally:
        gc.enable()
