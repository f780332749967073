"""Text from a model: greedy or sampled, from a folder or from a model in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruner.checkpoint import load_model, load_tokenizer
from pruner.progress import Track, silent


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model wrote after a prompt; `tokens` are those of `text`, the end-of-text token included."""

    prompt: str
    text: str
    tokens: tuple[int, ...]


def generate_text(
    model: str | Path,
    prompt: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    trust_remote_code: bool = False,
    track: Track = silent,
) -> str:
    """Load a model folder and continue `prompt`; returns what was added.

    Raises:
        ValueError: there is no such model, or the prompt does not fit its context.
    """
    loaded = load_model(model, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
    (sample,) = continue_prompts(
        loaded, tokenizer, [prompt], max_new_tokens, temperature=temperature, seed=seed, track=track
    )
    return sample.text


def continue_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    track: Track = silent,
) -> tuple[Sample, ...]:
    """Continue each prompt by itself, so that none depends on its neighbours' padding.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: plain text; nothing is put around it.
        max_new_tokens: where a text ends that has not ended itself.
        temperature: 0 for greedy, else the softmax temperature of sampling from the whole vocabulary.
        seed: of the sampling, anew for every prompt.
        track: sees the prompts go by.

    Raises:
        ValueError: a prompt is empty or does not fit the model's context together with the new tokens.
    """
    check_lengths(temperature, max_new_tokens)
    return tuple(
        _continue(model, tokenizer, prompt, max_new_tokens, temperature, seed)
        for prompt in track(prompts, "generating", len(prompts))
    )


def check_lengths(temperature: float, max_new_tokens: int) -> None:
    """Raise ValueError for what cannot be sampled."""
    if temperature < 0 or max_new_tokens < 1:
        raise ValueError(
            "temperature must be 0 (greedy) or more and max_new_tokens at least 1, "
            f"got {temperature} and {max_new_tokens}"
        )


def encode_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int,
    *,
    add_special_tokens: bool = True,
) -> Any:
    """A prompt's ids and mask (1, tokens) on the model's device.

    Raises:
        ValueError: it is empty or does not fit the model's context together with the new tokens.
    """
    encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=add_special_tokens).to(model.device)
    length = encoded.input_ids.shape[1]
    context = getattr(model.config, "max_position_embeddings", None)
    if not length:
        raise ValueError("the prompt is empty; a model continues at least one token")
    if context is not None and length + max_new_tokens > context:
        raise ValueError(
            f"the prompt has {length} tokens and {max_new_tokens} are to follow, but the model's context "
            f"holds {context}; shorten the prompt or lower max_new_tokens"
        )
    return encoded


@torch.inference_mode()
def _continue(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Sample:
    encoded = encode_prompt(model, tokenizer, prompt, max_new_tokens)
    length = encoded.input_ids.shape[1]
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        output = model.generate(
            encoded.input_ids,
            attention_mask=encoded.attention_mask,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **(sampling if temperature else {"do_sample": False}),
        )
    tokens = output[0, length:].tolist()
    return Sample(prompt, tokenizer.decode(tokens, skip_special_tokens=True), tuple(tokens))
