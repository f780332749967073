import pytest
import torch

from pruner.compensation.least_squares import Moments, refit


@pytest.fixture
def tokens():
    """Inputs (300, 8) with a mean, targets (300, 3) that depend on them, and a weight (8, 3)."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 8, generator=draw) @ torch.randn(8, 8, generator=draw) + 1.5
    weight = torch.randn(8, 3, generator=draw)
    return inputs, inputs @ weight + 0.3 * torch.randn(300, 3, generator=draw) + 2.0, weight


def moments_of(inputs, targets, size):
    moments = Moments(inputs.shape[1], targets.shape[1])
    for rows in zip(inputs.split(size), targets.split(size)):
        moments.update(*rows)
    return moments


def error(inputs, targets, weight, bias=0.0):
    return (inputs @ weight + bias - targets).square().mean()


def test_moments_do_not_depend_on_the_batches(tokens):
    whole, parts = (moments_of(*tokens[:2], size) for size in (300, 70))
    for name in ("gram", "cross", "inputs", "targets"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


@pytest.mark.parametrize("bias", [False, True])
def test_an_undamped_refit_is_ordinary_least_squares(tokens, bias):
    inputs, targets, weight = tokens
    left = torch.tensor([0, 2, 3, 6])
    design = torch.cat([inputs[:, left], torch.ones(300, bias)], 1)
    expected = torch.linalg.lstsq(design, targets).solution
    fitted, constant = refit(moments_of(inputs, targets, 64), weight, left.numpy(), 1e-9, bias)
    torch.testing.assert_close(fitted, expected[:4], rtol=1e-3, atol=1e-3)
    if bias:
        torch.testing.assert_close(constant, expected[4], rtol=1e-3, atol=1e-3)
    else:
        assert constant is None


@pytest.mark.parametrize("bias", [False, True])
def test_a_refit_comes_nearer_to_the_targets_than_cutting_alone(tokens, bias):
    inputs, targets, weight = tokens
    left = torch.tensor([0, 2, 3, 6])
    fitted, constant = refit(moments_of(inputs, targets, 64), weight, left.numpy(), 0.1, bias)
    constant = 0.0 if constant is None else constant
    cut = error(inputs[:, left], targets, weight[left])
    assert error(inputs[:, left], targets, fitted, constant) < 0.8 * cut


def test_strong_damping_leaves_the_weights_where_they_were(tokens):
    inputs, targets, weight = tokens
    fitted, _ = refit(moments_of(inputs, targets, 64), weight, torch.arange(8).numpy(), 1e9, False)
    torch.testing.assert_close(fitted, weight)
