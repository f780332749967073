"""Text from a model as it comes, token by token, with the time that it took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.evaluation.generate import check_lengths, encode_prompt


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a model has written so far.

    Attributes:
        text: without the prompt.
        num_tokens: of the text, an end-of-text token included.
        first_seconds: from the prompt to the first token.
        rest_seconds: for all that followed.
    """

    text: str
    num_tokens: int
    first_seconds: float
    rest_seconds: float

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None while there is no second."""
        return (self.num_tokens - 1) / self.rest_seconds if self.num_tokens > 1 else None


@torch.inference_mode()
def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 64,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    add_special_tokens: bool = True,
) -> Iterator[Spoken]:
    """Yield what `model` continues `prompt` with, once for each token.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompt: plain text; nothing is put around it.
        max_new_tokens: where a text ends that has not ended itself.
        temperature: 0 for greedy, else the softmax temperature of sampling from the whole vocabulary.
        seed: of the sampling.
        add_special_tokens: let the tokenizer put its own around the prompt.

    Raises:
        ValueError: the prompt is empty or does not fit the model's context together with the new tokens.
    """
    check_lengths(temperature, max_new_tokens)
    encoded = encode_prompt(model, tokenizer, prompt, max_new_tokens, add_special_tokens=add_special_tokens)
    generator = torch.Generator(model.device).manual_seed(seed)
    given, cache, ends = encoded.input_ids, None, ends_of(model)
    tokens: list[int] = []
    seconds: list[float] = []
    while len(tokens) < max_new_tokens and not (tokens and tokens[-1] in ends):
        start = time.perf_counter()
        output = model(given, past_key_values=cache, use_cache=True)
        given, cache = choose(output.logits[:, -1], temperature, generator), output.past_key_values
        tokens.append(int(given))
        seconds.append(time.perf_counter() - start)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        yield Spoken(str(text), len(tokens), seconds[0], sum(seconds[1:]))


def choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """The next token (1, 1) by its logits (1, vocabulary): the likeliest, or drawn at a temperature."""
    if not temperature:
        return logits.argmax(-1, keepdim=True)
    return torch.multinomial((logits.float() / temperature).softmax(-1), 1, generator=generator)


def ends_of(model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens that end a text, by the model's generation settings."""
    settings = model.generation_config
    ends = settings.eos_token_id if settings is not None else None
    return () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
