"""A forward pass without data: how many bytes autograd would keep of it, on any architecture."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lit_modules.objective import only_at


def kept_bytes(model: Any, num_rows: int, length: int, *, autocast: bool = False) -> int:
    """Bytes of all that autograd keeps of a training pass besides the parameters, output layer left out.

    The masks of packed samples and padding are (num_rows, 1, length, length).

    Args:
        model: a causal language model on the meta device, adapters on it or not; it is used up.
        num_rows: of a batch.
        length: tokens of a row.
        autocast: whether matrix products are computed in bf16 whatever the weights are.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        pretend(model)
        ids = torch.zeros(num_rows, length, dtype=torch.int64)
        mask = torch.zeros(num_rows, 1, length, length, dtype=torch.bool)
        computing = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
        head, keeping = model.get_output_embeddings(), Keeping(model)
        with only_at(head, torch.tensor([0])), computing, keeping:
            keeping.output = model.train()(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return keeping.num_bytes


def pretend(empty: nn.Module) -> None:
    """Give every tensor of a meta model a place on the CPU; within a fake mode this takes no memory."""
    made: dict[Tensor, Tensor] = {}
    for module in empty.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in made:
                    value = torch.empty(tensor.shape, dtype=tensor.dtype)
                    made[tensor] = (
                        nn.Parameter(value, tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else value
                    )
                if tensor is not None:
                    tensors[name] = made[tensor]  # type: ignore[assignment]


class Keeping(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the storages that autograd keeps, parameters left out, each once."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {each.untyped_storage()._cdata for each in model.parameters()}
        self.kept: dict[int, Tensor] = {}
        self.output: Tensor | None = None
        super().__init__(self.keep, lambda tensor: tensor)

    def keep(self, tensor: Tensor) -> Tensor:
        """Take note of a tensor that autograd is about to keep."""
        storage = tensor.untyped_storage()._cdata
        if storage not in self.weights:
            self.kept[storage] = tensor
        return tensor

    @property
    def num_bytes(self) -> int:
        """What they take together."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.kept.values())
