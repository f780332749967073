"""What a model costs to keep and to run: parameters, multiply-accumulates, memory, time."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from pruner.progress import Track, silent


@dataclass(frozen=True, slots=True)
class Size:
    """What does not depend on the machine.

    Attributes:
        parameters: of the whole model, tied ones once.
        decoder_parameters: of those, the ones inside the decoder layers.
        macs_per_token: multiply-accumulates of one forward pass over `seq_len` tokens, divided by their
            number. Matrix products are counted, those of attention among them (all pairs of tokens, as
            without a causal mask); norms, activations, rotations and look-ups are not.
        seq_len: tokens in that pass.
        weight_bytes: parameters and buffers as they lie in memory.
        cache_bytes_per_token: keys and values that generation keeps for each token of each sequence.
    """

    parameters: int
    decoder_parameters: int
    macs_per_token: int
    seq_len: int
    weight_bytes: int
    cache_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class Speed:
    """What one machine needs, at one batch size and length; medians of `repeats` measurements.

    Attributes:
        device: where it ran.
        threads: of torch, where the device is the CPU.
        batch_size: sequences at once.
        prompt_tokens: tokens of each sequence read by prefill.
        new_tokens: tokens of each sequence generated after them.
        prefill_seconds: until the prompts are read.
        decode_seconds: for one token of each sequence, thereafter.
        peak_bytes: largest GPU memory in use, weights included; None on the CPU.
    """

    device: str
    threads: int
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    prefill_seconds: float
    decode_seconds: float
    peak_bytes: int | None = None

    @property
    def prefill_tokens_per_second(self) -> float:
        """Over all sequences of the batch."""
        return self.batch_size * self.prompt_tokens / self.prefill_seconds

    @property
    def decode_tokens_per_second(self) -> float:
        """Over all sequences of the batch."""
        return self.batch_size / self.decode_seconds


def measure_size(model: PreTrainedModel, seq_len: int = 128) -> Size:
    """Count parameters, operations and bytes, the last two by one forward pass over `seq_len` tokens."""
    cache, macs = _counted_forward(model, seq_len)
    keys_and_values = list(_tensors(cache))
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}.values()
    return Size(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        decoder_parameters=sum(parameter.numel() for parameter in decoder_layers(model).parameters()),
        macs_per_token=round(macs / seq_len),
        seq_len=seq_len,
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        cache_bytes_per_token=sum(tensor.nbytes for tensor in keys_and_values) // seq_len,
    )


def measure_speed(
    model: PreTrainedModel,
    batch_size: int = 1,
    prompt_tokens: int = 128,
    new_tokens: int = 32,
    repeats: int = 5,
    track: Track = silent,
) -> Speed:
    """Time prefill and decoding with a cache, after one round of each that is not counted.

    Raises:
        ValueError: the tokens do not fit the model's context.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and prompt_tokens + new_tokens > context:
        raise ValueError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones do not fit the model's context "
            f"of {context}; lower evaluation.prompt_tokens or evaluation.new_tokens"
        )
    prompt = _token_ids(model, batch_size, prompt_tokens)
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    rounds = [_round(model, prompt, new_tokens) for _ in track(range(repeats + 1), "timing", repeats + 1)]
    return Speed(
        device=torch.cuda.get_device_name(model.device) if on_gpu else model.device.type,
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        prefill_seconds=statistics.median(prefill for prefill, _ in rounds[1:]),
        decode_seconds=statistics.median(decode for _, decode in rounds[1:]),
        peak_bytes=torch.cuda.max_memory_allocated(model.device) if on_gpu else None,
    )


def decoder_layers(model: nn.Module) -> nn.Module:
    """The list of modules that holds the most parameters: in a language model, its decoder layers."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} holds no list of decoder layers")
    return max(lists, key=lambda layers: sum(parameter.numel() for parameter in layers.parameters()))


@torch.inference_mode()
def _counted_forward(model: PreTrainedModel, seq_len: int) -> tuple[Any, int]:
    with FlopCounterMode(display=False, custom_mapping=UNREGISTERED) as counter:
        output = model(_token_ids(model, 1, seq_len), use_cache=True)
    return output.past_key_values, counter.get_total_flops() // 2


@torch.inference_mode()
def _round(model: PreTrainedModel, prompt: Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds to read the prompt, and seconds for one token after it."""
    prefill, output = _timed(model, lambda: model(prompt, use_cache=True, logits_to_keep=1))

    def decode() -> None:
        nonlocal output
        for _ in range(new_tokens):
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, past_key_values=output.past_key_values, use_cache=True)

    seconds, _ = _timed(model, decode)
    return prefill, seconds / new_tokens


def _timed(model: PreTrainedModel, work: Callable[[], Any]) -> tuple[float, Any]:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    start = time.perf_counter()
    result = work()
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start, result


def _token_ids(model: PreTrainedModel, batch_size: int, seq_len: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, (batch_size, seq_len), generator=generator).to(model.device)


def _tensors(cache: Any) -> Iterator[Tensor]:
    """Keys and values of every layer that has any."""
    for layer in getattr(cache, "layers", ()):
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor):
                yield tensor


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """query (batch, heads, tokens, width), key and value (…, context, width): two products."""
    batch, heads, tokens, width = query
    return int(2 * batch * heads * tokens * key[-2] * (width + value[-1]))


def _grouped_flops(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    """left (rows, in), right (experts, in, out): every row meets one expert."""
    return int(2 * left[0] * left[1] * right[-1])


UNREGISTERED: dict[Any, Any] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
    torch.ops.aten._grouped_mm: _grouped_flops,
}
"""Products that torch's counter does not know by itself."""
