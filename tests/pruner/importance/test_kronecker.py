import pytest
import torch

from pruner.compensation.least_squares import Moments, optimum
from pruner.importance.kronecker import cheapest, gradient_covariances, stride, unit_costs
from pruner.projections import projection_of


@pytest.fixture
def problem():
    """A projection of 12 inputs to 5 outputs: H, G and the optimal weight, all fp64."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 12, generator=draw, dtype=torch.double) @ torch.randn(
        12, 12, generator=draw, dtype=torch.double
    )
    gradients = torch.randn(50, 5, generator=draw, dtype=torch.double)
    weight = torch.randn(12, 5, generator=draw, dtype=torch.double)
    return inputs.T @ inputs / 200, gradients.T @ gradients / 50, weight


def loss(gram, covariance, change):
    return 0.5 * torch.einsum("io,ij,jp,op->", change, gram, change, covariance)


def best_without(gram, weight, inputs):
    """The weight of the other inputs that comes nearest to `weight` under `gram`; rows of `inputs` zero."""
    rest = torch.tensor([i for i in range(len(gram)) if i not in inputs])
    best = torch.zeros_like(weight)
    best[rest] = torch.linalg.solve(gram[rest][:, rest], gram[rest] @ weight)
    return best


@pytest.mark.parametrize("width", [1, 3])
def test_a_unit_costs_the_loss_that_is_left_after_the_best_refit(problem, width):
    gram, covariance, weight = problem
    index = torch.arange(12).view(-1, width)
    costs = unit_costs(weight, torch.linalg.inv(gram), weight @ covariance, index)
    for unit, inputs in enumerate(index.tolist()):
        expected = loss(gram, covariance, best_without(gram, weight, inputs) - weight)
        torch.testing.assert_close(costs[unit], expected)


@pytest.mark.parametrize("width", [1, 2])
def test_the_choice_is_greedy_with_a_refit_after_every_removal(problem, width):
    gram, covariance, weight = problem
    index = torch.arange(12).view(-1, width)
    gone = []
    for _ in range(3):
        rest = [unit for unit in range(len(index)) if unit not in gone]
        taken = [index[[*gone, unit]].flatten().tolist() for unit in rest]
        losses = [loss(gram, covariance, best_without(gram, weight, inputs) - weight) for inputs in taken]
        gone.append(rest[int(torch.stack(losses).argmin())])
    kept, scores = cheapest(weight, torch.linalg.inv(gram), covariance, index, 3)
    assert kept == tuple(unit for unit in range(len(index)) if unit not in gone)
    torch.testing.assert_close(scores[gone].double().sum(), min(losses).double(), rtol=1e-5, atol=0)


def test_covariances_are_those_of_the_summed_loss_whatever_the_batch(tiny, groups, samples):
    name = "model.layers.2.mlp"
    projections = {name: projection_of(tiny, next(group for group in groups if group.name == name))}
    outputs = []
    module = tiny.model.layers[2].mlp.down_proj
    hook = module.register_forward_hook(lambda _m, _a, output: outputs.append(output))
    logits = tiny(samples).logits[:, :-1]
    hook.remove()
    per_sample = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), samples[:, 1:].flatten(), reduction="sum"
    )
    (grad,) = torch.autograd.grad(per_sample / (samples.shape[1] - 1) * samples.shape[1], outputs[0])
    rows = grad.flatten(0, 1)
    expected = rows.T @ rows / len(rows)
    for batch_size in (1, 4, 6):
        found = gradient_covariances(tiny, projections, samples, batch_size)[name]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_every_third_sample_counts_as_if_there_were_no_other(tiny, groups, samples):
    group = next(group for group in groups if group.kind == "mlp")
    projections = {group.name: projection_of(tiny, group)}
    found = gradient_covariances(tiny, projections, samples, batch_size=1, every=3)
    alone = gradient_covariances(tiny, projections, samples[[0, 3]], batch_size=1)
    assert torch.equal(found[group.name], alone[group.name])


def test_a_loss_that_is_not_finite_names_the_sample_of_the_text(tiny, groups, samples, monkeypatch):
    monkeypatch.setattr(
        "pruner.importance.backward.language_loss",
        lambda _model, batch: torch.where((batch == samples[4]).all(1), torch.nan, 1.0),
    )
    with pytest.raises(ValueError, match="loss of calibration sample 4 is nan"):
        gradient_covariances(tiny, {}, samples, every=2)


def test_of_a_long_text_a_quarter_gives_gradients_and_of_a_short_one_all():
    assert [stride(number) for number in (1, 127, 128, 256, 768)] == [1, 1, 2, 4, 4]


def test_where_a_bias_is_fitted_too_the_choice_knows_it():
    """Inputs that hardly vary cost nothing once a bias makes good their mean."""
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(4000, 8, generator=draw)
    inputs[:, :4] = 3 + 0.01 * inputs[:, :4]
    weight = torch.randn(8, 6, generator=draw)
    moments = Moments(8, 6)
    moments.update(inputs, inputs @ weight + 1)
    index = torch.arange(8)[:, None]
    for bias, expected in ((True, (4, 5, 6, 7)), (False, None)):
        best, inverse = optimum(*moments.second(bias), weight, 1e-3)
        kept, _ = cheapest(best, inverse, torch.eye(6), index, 4)
        assert (kept == expected) == bias
