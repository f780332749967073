"""The loss that removal costs after the best refit, by a Kronecker-factored Fisher of each projection."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruner.importance.activations import frozen, observed, with_gradient
from pruner.importance.backward import backward, batches_of, check_finite
from pruner.progress import Track, silent
from pruner.projections import Projection, input_major
from pruner.ranks import ALONE, Ranks
from pruner.visiting import is_layer_by_layer


def stride(num_samples: int) -> int:
    """One of how many samples gives gradients: all of a short text, every fourth of a long one.

    The covariance is only multiplied with, and a quarter of a long text tells it as well; the inputs'
    moments, which are inverted, take all of it.
    """
    return max(1, min(4, num_samples // 64))


def gradient_covariances(
    model: PreTrainedModel,
    projections: Mapping[str, Projection],
    input_ids: Tensor,
    batch_size: int | None = None,
    track: Track = silent,
    ranks: Ranks = ALONE,
    every: int = 1,
) -> dict[str, Tensor]:
    """G = E[g gᵀ] over tokens, g the gradient of the text's summed loss at a projection's output.

    All weights stay frozen. The second factor of K-FAC (Martens and Grosse 2015) on the empirical Fisher.

    Args:
        model: is left as it was.
        projections: by any name.
        input_ids: (num_samples, seq_len) int64.
        batch_size: samples in one backward pass, None for 512 tokens; no influence on the result.
        track: sees the passes go by.
        ranks: the processes that share the samples.
        every: only one sample of so many is read.

    Returns:
        Name -> (out, out) fp32, in nats² per token and squared unit of the output; in main memory where the
        layers are too.

    Raises:
        ValueError: a loss or a gradient is not finite; says of which sample.
    """
    numbers: Sequence[int] = ()
    kept_on = torch.device("cpu") if is_layer_by_layer(model) else None
    weights = {name: input_major(model.get_submodule(each.module)) for name, each in projections.items()}
    totals = {
        name: torch.zeros(2 * weight.shape[1:], device=kept_on or weight.device)
        for name, weight in weights.items()
    }
    num_samples = len(input_ids[::every])
    tokens = num_samples * input_ids.shape[1]

    def see(name: str, output: Tensor) -> None:
        with_gradient(output, lambda grad: receive(name, grad))

    def receive(name: str, grad: Tensor) -> None:
        check_finite(grad, projections[name].module, numbers, input_ids.shape[1])
        rows = grad.flatten(0, -2).float() * tokens
        totals[name] += (rows.T @ rows / tokens).to(totals[name].device)

    with frozen(model), observed(model, projections, see, outputs=True):
        for batch, numbers in batches_of(model, input_ids, batch_size, track, ranks, every):
            backward(model, batch, numbers, num_samples)
    ranks.add(*totals.values(), through=model.device)
    return totals


def unit_costs(weight: Tensor, inverse: Tensor, pulled: Tensor, index: Tensor) -> Tensor:
    """Loss that each unit's removal costs after the refit: ½ tr(W_Jᵀ [H⁻¹]_JJ⁻¹ W_J G), in nats per token.

    The removal cost of Optimal Brain Surgeon (Hassibi and Stork 1993) under the Fisher H ⊗ G; for one input
    ½ w_jᵀ G w_j / [H⁻¹]_jj.

    Args:
        weight: W, (in, out), at the optimum of what remains.
        inverse: H⁻¹, (in, in).
        pulled: W G, (in, out).
        index: (num_units, width); the inputs of each unit.

    Returns:
        (num_units,).
    """
    if index.shape[1] == 1:
        return 0.5 * ((weight * pulled).sum(1) / inverse.diagonal())[index[:, 0]]
    blocks = inverse[index[:, :, None], index[:, None, :]]
    costs: Tensor = 0.5 * (torch.linalg.solve(blocks, weight[index]) * pulled[index]).sum((1, 2))
    return costs


def cheapest(
    weight: Tensor, inverse: Tensor, covariance: Tensor, index: Tensor, num_removed: int, rounds: int = 48
) -> tuple[tuple[int, ...], Tensor]:
    """Remove the units that cost least, a few at a time, each time with the rest refitted.

    A refit without the inputs J takes H⁻¹_·J [H⁻¹]_JJ⁻¹ X_J from each X that is linear in H⁻¹: from H⁻¹
    itself, the weights W and W G, which therefore lie side by side.

    Args:
        weight: (in, out), at the optimum with all inputs.
        inverse: H⁻¹, (in, in), damped.
        covariance: G, (out, out).
        index: (num_units, width); the inputs of each unit.
        num_removed: how many units go.
        rounds: in how many steps at most.

    Returns:
        The units that stay, ascending, and what each unit cost when it went, or would cost at the end.
    """
    state = torch.cat([weight, weight @ covariance, inverse], 1)
    weight, pulled, inverse = state.split([weight.shape[1], weight.shape[1], len(inverse)], 1)
    alive = torch.ones(len(index), dtype=torch.bool, device=index.device)
    scores = weight.new_zeros(len(index))
    step = -(-num_removed // rounds)
    while True:
        costs = unit_costs(weight, inverse, pulled, index)
        scores[alive] = costs[alive]
        if num_removed == 0:
            return tuple(alive.nonzero()[:, 0].tolist()), scores.cpu()
        gone = costs.masked_fill(~alive, torch.inf).topk(min(step, num_removed), largest=False).indices
        inputs = index[gone].flatten()
        columns = inverse[:, inputs]
        state.addmm_(columns, torch.linalg.solve(columns[inputs], state[inputs]), alpha=-1)
        inverse[inputs, inputs] = 1
        alive[gone] = False
        num_removed -= len(gone)
