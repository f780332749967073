"""What the refits leave: all weights learn from the dense model and the text, in their own memory."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from pruner.bypass import Bypass, bypassed, bypasses
from pruner.compensation.factored import Factored
from pruner.compensation.settings import Compensation
from pruner.gradients import at_once, streamed_gradients
from pruner.progress import Track
from pruner.ranks import Ranks
from pruner.visiting import present

STEP = 256
"""Tokens in a step: more, smaller steps get further on as little text."""

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; afterwards it falls to nothing."""


def distil(
    model: PreTrainedModel,
    layers: Sequence[str],
    dropped: Sequence[str],
    teacher: Tensor,
    input_ids: Tensor,
    settings: Compensation,
    track: Track,
    ranks: Ranks,
) -> None:
    """Teach the decoder's weight matrices what the dense model predicts, and how the text goes on.

    The loss is that of Hinton et al. 2015 (section 2): KL(dense ‖ pruned) at each token and cross-entropy
    with the token that follows, in the shares that the settings say. A gradient is used as soon as it is
    there and then freed (LOMO, Lv et al. 2023), in a step of Adafactor without momentum (Shazeer and Stern
    2018): beside the weights there is one gradient, the activations of 256 tokens and one sample's logits.
    Processes that share the samples keep a pass's gradients until they are summed. The dense model is there
    as the hidden states that leave its last layer; norms, embeddings and head stay as they were, and make
    its logits of them.

    Args:
        model: pruned; its matrices are changed in place.
        layers: all decoder layers.
        dropped: those of them that are passed by.
        teacher: (num_samples, seq_len, width), what leaves the dense model's last layer for the samples.
        input_ids: (num_samples, seq_len) int64 of all processes; the teacher has this one's share.
        settings: passes, learning rate and the divergence's share.
        track: sees the steps go by.
        ranks: the processes that share the samples.

    Raises:
        ValueError: the pruned model's predictions are not finite.
    """
    first, share = ranks.first(len(input_ids)), ranks.share(input_ids)
    ending = bypasses(model, layers, share[:1].to(model.device))
    descent = Descent(model, layers, ranks)
    num_steps = -(-len(input_ids) // at_once(input_ids, None, STEP))
    total = settings.epochs * num_steps
    with (
        bypassed(model, {name: ending[name] for name in dropped}),
        streamed_gradients(model, descent.matrices, descent.receive),
    ):
        for step in track(list(range(total)), "distil", total):
            rate = settings.learning_rate * (1 - step / total)
            descent.factored.rate = rate * min(1.0, (step + 1) / (WARMUP * total))
            together = range(step % num_steps, len(input_ids), num_steps)
            mine = [number - first for number in together if 0 <= number - first < len(share)]
            rows = mine or [0]  # without a sample, still in step with the others
            scale = share.shape[1] / len(together)  # summed over tokens: means would vanish in float16
            scale *= len(mine) > 0
            descend(model, ending, share[rows], teacher[rows], settings.divergence, scale)
            descent.meet()


class Descent:
    """Steps by gradients as they come, or where processes share the samples, by their sums.

    Those wait for the end of a pass: an expert that saw no token in one process has no gradient there.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], ranks: Ranks) -> None:
        self.layers = {model.get_submodule(layer): dict(matrices_of(model, [layer])) for layer in layers}
        self.matrices = {name: matrix for inside in self.layers.values() for name, matrix in inside.items()}
        self.homes = {name: matrix.device for name, matrix in self.matrices.items()}
        self.ranks = ranks
        self.factored = Factored()
        self._waiting: dict[str, Tensor] = {}

    def receive(self, name: str, gradient: Tensor) -> None:
        """Take this process's gradient."""
        if self.ranks.size > 1:
            self._waiting[name] = gradient.to(self.homes[name])
        else:
            self.factored.step(name, self.matrices[name], gradient)

    def meet(self) -> None:
        """Make the steps that wait for the other processes."""
        for layer, matrices in self.layers.items() if self.ranks.size > 1 else ():
            with present(layer):
                for name, matrix in matrices.items():
                    gradient = self._waiting.pop(name, None)
                    gradient = torch.zeros_like(matrix) if gradient is None else gradient.to(matrix.device)
                    self.ranks.add(gradient)
                    self.factored.step(name, matrix, gradient)


def matrices_of(model: nn.Module, layers: Sequence[str]) -> Iterator[tuple[str, nn.Parameter]]:
    """The floating-point weight matrices inside the layers, stacks of matrices too."""
    for layer in layers:
        for name, parameter in model.get_submodule(layer).named_parameters(prefix=layer):
            if parameter.ndim > 1 and parameter.is_floating_point():
                yield name, parameter


def descend(
    model: PreTrainedModel,
    ending: Mapping[str, Bypass],
    input_ids: Tensor,
    teacher: Tensor,
    divergence: float,
    scale: float,
) -> None:
    """Backward pass of the samples' losses, summed and scaled; logits are there of one sample at a time.

    Raises:
        ValueError: a loss is not finite.
    """
    hidden = hidden_states(model, list(ending)[-1], input_ids)
    last = hidden.detach().requires_grad_()
    for ids, wanted, given in zip(input_ids.split(1), teacher.split(1), last.split(1)):
        loss = loss_of(model, ending, ids, wanted, given, divergence)
        if not loss.isfinite():
            raise ValueError(
                f"the pruned model's predictions are not finite (loss {loss.item()}); load the model in "
                "bfloat16 or float32, or set compensation.epochs to 0"
            )
        (loss * scale).backward()
    hidden.backward(last.grad)


def hidden_states(model: PreTrainedModel, last: str, input_ids: Tensor) -> Tensor:
    """What leaves the layer `last`: (samples, seq_len, width)."""
    left: list[Tensor] = []
    hook = model.get_submodule(last).register_forward_hook(
        lambda _module, _args, output: left.append(output if isinstance(output, Tensor) else output[0])
    )
    try:
        model.base_model(input_ids=input_ids.to(model.device), use_cache=False)
    finally:
        hook.remove()
    return left[0]


def loss_of(
    model: PreTrainedModel,
    ending: Mapping[str, Bypass],
    input_ids: Tensor,
    teacher: Tensor,
    hidden: Tensor,
    divergence: float = 1.0,
) -> Tensor:
    """KL(dense ‖ pruned) and the text's cross-entropy, means over the tokens, in nats.

    Args:
        model: pruned; its last norm and head stand for the dense model's too.
        ending: what each of its layers can be replaced with.
        input_ids: (samples, seq_len).
        teacher: (samples, seq_len, width), what leaves the dense model's last layer.
        hidden: what leaves the pruned model's.
        divergence: the share of KL; the rest is cross-entropy.
    """
    with torch.no_grad():
        wanted = log_probabilities(model, ending, input_ids, teacher.to(hidden.device))
    given = log_probabilities(model, ending, input_ids, hidden)
    loss = divergence * F.kl_div(given, wanted, reduction="none", log_target=True).sum(-1).mean()
    if divergence < 1:
        following = input_ids[:, 1:, None].to(given.device)
        loss = loss - (1 - divergence) * given[:, :-1].gather(-1, following).mean()
    return loss


def log_probabilities(
    model: PreTrainedModel, ending: Mapping[str, Bypass], input_ids: Tensor, hidden: Tensor
) -> Tensor:
    """What the model predicts of the hidden states that leave its last layer, whatever enters the first.

    Returns:
        (samples, seq_len, vocab_size) fp32.
    """
    last = list(ending)[-1]
    with bypassed(model, {**ending, last: partial(ending[last], hidden)}):
        logits: Tensor = model(input_ids=input_ids.to(model.device), use_cache=False).logits
    return logits.float().log_softmax(-1)
