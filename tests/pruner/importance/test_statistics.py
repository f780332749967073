import pytest
import torch

from pruner.importance import estimate_importance


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
