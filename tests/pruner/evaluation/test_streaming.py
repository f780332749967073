"""Text that comes token by token is the text that comes at once."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruner.evaluation.generate import continue_prompts
from pruner.evaluation.streaming import stream

PROMPT = "Once upon a time, there was"


@pytest.fixture(scope="module")
def stories(data):
    folder = data / "stories260K"
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_greedy_text_is_that_of_transformers_and_grows_by_one_token(stories):
    spoken = list(stream(*stories, PROMPT, 24))
    (whole,) = continue_prompts(*stories, [PROMPT], 24)
    assert spoken[-1].text == whole.text
    assert [each.num_tokens for each in spoken] == list(range(1, 25))
    assert all(whole.text.startswith(each.text) for each in spoken)


def test_a_text_ends_where_the_model_ends_it(stories):
    model, tokenizer = stories
    (whole,) = continue_prompts(model, tokenizer, [PROMPT], 24)
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [before, whole.tokens[9]]
    try:
        *_, last = stream(model, tokenizer, PROMPT, 24)
        (ended,) = continue_prompts(model, tokenizer, [PROMPT], 24)
    finally:
        model.generation_config.eos_token_id = before
    assert last.num_tokens == len(ended.tokens) <= 10
    assert last.text == ended.text


def test_sampling_depends_on_its_seed_and_on_nothing_else(stories):
    def draw(seed):
        *_, last = stream(*stories, PROMPT, 16, temperature=1.5, seed=seed)
        return last.text

    state = torch.random.get_rng_state()
    assert draw(0) == draw(0) != draw(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_the_time_of_the_model_counts(stories):
    """A reader that takes its time is not charged to the model."""
    one, two = stream(*stories, PROMPT, 2)
    assert one.tokens_per_second is None
    assert two.tokens_per_second == 1 / two.rest_seconds
    assert two.first_seconds == one.first_seconds


@pytest.mark.parametrize(
    "prompt, tokens, message",
    [
        ("", 8, "the prompt is empty"),
        (PROMPT, 4096, "the model's context holds 512; shorten the prompt"),
        (PROMPT, 0, "max_new_tokens at least 1"),
    ],
)
def test_what_cannot_be_continued_is_refused(stories, prompt, tokens, message):
    with pytest.raises(ValueError, match=message):
        next(stream(*stories, prompt, tokens, add_special_tokens=False))
