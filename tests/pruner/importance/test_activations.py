import torch

from benchmarks.tiny_configs import tiny_model
from pruner.discovery import discover
from pruner.importance import estimate_importance
from pruner.importance.backward import language_loss


def gate_gradients(model, groups, samples):
    """Group name -> (samples, num_units), by weights: Σ_i W_ik ∂L/∂W_ik of the reading projection."""
    found = {group.name: [] for group in groups}
    for loss in language_loss(model, samples):
        for group in groups:
            piece = next(piece for piece in group.slices if piece.reads)
            weight = model.get_parameter(piece.name)
            (grad,) = torch.autograd.grad(loss, weight, retain_graph=True)
            columns = (weight * grad).detach().sum(0)
            found[group.name].append(columns[torch.as_tensor(piece.index)].sum(1))
    return {name: torch.stack(rows) for name, rows in found.items()}


def test_gate_scores_from_activations_are_those_from_weights(tiny, groups, samples):
    expected = gate_gradients(tiny, groups, samples)
    taylor = estimate_importance(tiny, groups, samples, "gate_taylor")
    fisher = estimate_importance(tiny, groups, samples, "gate_fisher")
    for name, gates in expected.items():
        torch.testing.assert_close(taylor[name], gates.mean(0).abs(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(fisher[name], gates.square().mean(0), rtol=1e-3, atol=1e-8)


def test_gate_scores_are_the_same_where_a_projection_reads_tokens_without_samples(samples):
    model = tiny_model("opt", dtype=torch.float32)
    groups = [group for group in discover(model).groups if group.kind == "mlp"]
    fisher = estimate_importance(model, groups, samples, "gate_fisher", batch_size=4)
    for name, gates in gate_gradients(model, groups, samples).items():
        torch.testing.assert_close(fisher[name], gates.square().mean(0), rtol=1e-3, atol=1e-8)


def test_the_gate_gradient_foretells_what_closing_the_gate_does(tiny, groups, samples):
    name, channel, small = "model.layers.2.mlp", 7, 1e-2
    taylor = estimate_importance(tiny, groups, samples, "gate_taylor")[name][channel]
    with torch.no_grad():
        open_loss = language_loss(tiny, samples).mean()
        tiny.model.layers[2].mlp.down_proj.weight[:, channel] *= 1 - small
        change = language_loss(tiny, samples).mean() - open_loss
    torch.testing.assert_close(change.abs() / small, taylor, rtol=0.1, atol=1e-4)
