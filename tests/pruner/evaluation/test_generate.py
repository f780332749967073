import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruner.evaluation.generate import continue_prompts, generate_text
from tests.real_data import STORIES

pytestmark = pytest.mark.skipif(not STORIES.exists(), reason=f"needs {STORIES}")
PROMPT = "Once upon a time, there was"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(STORIES).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(STORIES)


def test_greedy_text_takes_the_likeliest_token_at_every_step(model, tokenizer):
    (sample,) = continue_prompts(model, tokenizer, [PROMPT], 8)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    for token in sample.tokens:
        assert token == model(ids).logits[0, -1].argmax()
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert len(sample.tokens) == 8
    assert sample.text.strip().startswith("a")


def test_a_prompt_is_continued_alike_alone_and_among_others(model, tokenizer):
    alone = continue_prompts(model, tokenizer, [PROMPT], 12)
    among = continue_prompts(model, tokenizer, ["The dog", PROMPT], 12)
    assert among[1] == alone[0]


def test_sampling_depends_on_its_seed_and_on_nothing_else(model, tokenizer):
    def draw(seed):
        return continue_prompts(model, tokenizer, [PROMPT], 16, temperature=1.5, seed=seed)[0].tokens

    state = torch.random.get_rng_state()
    assert draw(0) == draw(0) != draw(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_folder_generates_what_its_model_does(model, tokenizer):
    (sample,) = continue_prompts(model, tokenizer, [PROMPT], 8)
    assert generate_text(str(STORIES), PROMPT, max_new_tokens=8) == sample.text


def test_a_prompt_longer_than_the_context_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="context holds"):
        continue_prompts(model, tokenizer, ["a story " * 1000], 8)


def test_an_impossible_temperature_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="temperature must be 0"):
        continue_prompts(model, tokenizer, [PROMPT], 8, temperature=-1)
