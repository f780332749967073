import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pruner.importance import CRITERIA, REDUCTIONS, estimate_importance

TAYLOR = ("taylor", "taylor_first", "taylor_second", "taylor_mix")


def sample_losses(model, samples):
    logits = model(samples).logits[:, :-1]
    return torch.stack([F.cross_entropy(row, ids[1:]) for row, ids in zip(logits, samples)])


def slow_reference(model, groups, samples, criterion, reduction):
    """Ma et al. 2023, section 3.2, with every gradient of every sample kept."""
    kept = []
    for loss in sample_losses(model, samples):
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        kept.append(dict(zip(dict(model.named_parameters()), gradients)))
    scores = {}
    for group in groups:
        members = []
        for piece in group.slices:
            weight = model.get_parameter(piece.name).detach()
            grads = torch.stack([gradients[piece.name] for gradients in kept])
            first, second = weight * grads.mean(0), weight**2 * (grads**2).mean(0)
            elements = {
                "l1": weight.abs(),
                "l2": weight**2,
                "taylor": first,
                "taylor_first": first.abs(),
                "taylor_second": second.abs(),
                "taylor_mix": (first - 0.5 * second).abs(),
            }[criterion]
            rows = elements.movedim(piece.dim, 0)
            members.append([rows[unit].sum().abs().item() for unit in piece.index])
        how = {"sum": np.sum, "mean": np.mean, "max": np.max, "product": np.prod, "last": lambda m, _: m[-1]}
        scores[group.name] = torch.tensor(how[reduction](np.array(members), 0), dtype=torch.float32)
    return scores


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("criterion", ["l1", "l2", *TAYLOR])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_criterion_is_what_the_paper_says(tiny, groups, samples, criterion, reduction):
    ours = estimate_importance(tiny, groups, samples, criterion, reduction)
    assert_same(ours, slow_reference(tiny, groups, samples, criterion, reduction))


@pytest.mark.parametrize("criterion", TAYLOR)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_does_not_change_a_score(tiny, groups, samples, criterion, batch_size):
    whole = estimate_importance(tiny, groups, samples, criterion)
    assert_same(estimate_importance(tiny, groups, samples, criterion, batch_size=batch_size), whole)


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name.startswith(("taylor", "gate"))])
def test_estimation_leaves_the_model_as_it_was(tiny, groups, samples, criterion):
    tiny.train()
    tiny.model.embed_tokens.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    asked = [parameter.requires_grad for parameter in tiny.parameters()]
    estimate_importance(tiny, groups, samples, criterion)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert [parameter.requires_grad for parameter in tiny.parameters()] == asked
    assert tiny.training
    assert all(parameter.grad is None for parameter in tiny.parameters())
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in tiny.modules()]
    assert not any(hooks)


def test_no_more_than_one_gradient_lives_at_a_time(tiny, groups, samples):
    from pruner.gradients import streamed_gradients

    alive = []

    def count(name, grad):
        alive.append(sum(parameter.grad is not None for parameter in tiny.parameters()))

    names = {piece.name for group in groups for piece in group.slices}
    parameters = {name: tiny.get_parameter(name) for name in names}
    with streamed_gradients(tiny, parameters, count):
        sample_losses(tiny, samples).mean().backward()
    assert alive == [1] * len(names)


def test_scores_are_fp32_whatever_the_weights_are(tiny, groups, samples):
    exact = estimate_importance(tiny, groups, samples, "taylor_first")
    rough = estimate_importance(tiny.bfloat16(), groups, samples, "taylor_first")
    for name, scores in rough.items():
        assert scores.dtype == torch.float32
        torch.testing.assert_close(scores, exact[name], rtol=0.3, atol=0.05)


def test_random_scores_follow_the_seed(tiny, groups):
    first, again, other = (estimate_importance(tiny, groups, None, "random", seed=seed) for seed in (0, 0, 1))
    assert_same(first, again)
    assert not torch.equal(first[groups[0].name], other[groups[0].name])


def test_a_score_that_is_not_finite_names_parameter_and_samples(tiny, groups, samples):
    weight = tiny.model.layers[3].mlp.up_proj.weight
    weight.data[5] = 1e25
    tiny.model.layers[3].mlp.down_proj.weight.data[:, 5] = 0.0
    with pytest.raises(ValueError, match=r"of model.layers.*not finite on calibration sample 0:"):
        estimate_importance(tiny, groups, samples, "taylor_second")


def test_a_loss_that_is_not_finite_names_the_sample(tiny, groups, samples):
    tiny.model.embed_tokens.weight.data[samples[4, 3]] = float("nan")
    sample = int((samples == samples[4, 3]).any(1).nonzero()[0])
    with pytest.raises(ValueError, match=f"loss of calibration sample {sample} is nan"):
        estimate_importance(tiny, groups, samples, "taylor_first", batch_size=2)


def test_quantised_weights_are_refused_with_the_way_out(tiny, groups, samples):
    layer = tiny.model.layers[2].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"layers.2.mlp.up_proj.weight is quantised .torch.int8"):
        estimate_importance(tiny, groups, samples, "taylor_first")


def test_an_unknown_criterion_is_answered_with_the_known(tiny, groups, samples):
    with pytest.raises(ValueError, match="no criterion 'tailor'; there are random, l1, l2, "):
        estimate_importance(tiny, groups, samples, "tailor")


@pytest.mark.parametrize("criterion", TAYLOR)
def test_a_pass_reads_512_tokens_at_most(tiny, groups, criterion):
    sizes = []
    hook = tiny.register_forward_pre_hook(
        lambda _model, _args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    estimate_importance(tiny, groups, torch.randint(0, 50, (24, 64)), criterion)
    hook.remove()
    assert max(sizes) == (64 if criterion in ("taylor_second", "taylor_mix") else 512)


@pytest.mark.parametrize(
    ("criterion", "where"), [("taylor_mix", "sample 1:"), ("taylor_first", "sample 0 to 1:")]
)
def test_a_gradient_that_overflows_names_the_samples_of_its_own_pass(tiny, groups, samples, criterion, where):
    """Not those of the last pass, when a parameter's gradient is whole."""
    weight, passes = tiny.model.layers[3].mlp.up_proj.weight, []

    def overflow(grad):
        passes.append(1)
        return grad * torch.inf if len(passes) == (2 if criterion == "taylor_mix" else 1) else grad

    handle = weight.register_hook(overflow)
    with pytest.raises(ValueError, match=rf"gradient of model.layers.3.mlp.up_proj.weight .* {where}"):
        estimate_importance(tiny, groups, samples, criterion, batch_size=2)
    handle.remove()
    assert all(parameter.grad is None for parameter in tiny.parameters())


def test_gradients_that_are_there_do_not_count_and_stay(tiny, groups, samples):
    clean = estimate_importance(tiny, groups, samples, "taylor_first")
    weight = tiny.model.layers[2].mlp.up_proj.weight
    weight.grad = torch.ones_like(weight)
    assert_same(estimate_importance(tiny, groups, samples, "taylor_first"), clean)
    assert torch.equal(weight.grad, torch.ones_like(weight))
