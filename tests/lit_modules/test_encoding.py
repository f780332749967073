"""What is learned is the response and its end, nothing of the prompt."""

import pytest

from lit_modules.encoding import Encoder
from lit_modules.templates import Example, load_template

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def encode(tokenizer, template, *records, max_length=200):
    encoder = Encoder(tokenizer, load_template(template, tokenizer), max_length)
    return [example for chunk in encoder((record, "here") for record in records) for example in chunk]


RECORD = {"instruction": "Tell a story.", "input": "", "output": "Once upon a time."}


@pytest.mark.parametrize("template", ["alpaca", "{instruction}{response}", "{instruction}\n{response}\n\n"])
def test_the_prompts_ids_are_those_that_generation_will_see(tokenizer, template):
    (example,) = encode(tokenizer, template, RECORD)
    prompt, _ = load_template(template, tokenizer)(Example("Tell a story.", "", "x"))
    asked = tokenizer(prompt)["input_ids"]
    assert example.input_ids[: example.num_prompt].tolist() == asked[: example.num_prompt]
    assert len(asked) - example.num_prompt <= 1


def test_the_learned_part_is_the_response_and_one_eos(tokenizer):
    (example,) = encode(tokenizer, "alpaca", RECORD)
    learned = example.input_ids[example.num_prompt :].tolist()
    assert learned[-1] == tokenizer.eos_token_id
    assert learned.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(learned[:-1]).strip() == RECORD["output"]


def test_a_chat_ends_at_the_eos_its_template_writes(tokenizer):
    tokenizer.chat_template = CHAT
    (example,) = encode(tokenizer, "chat", RECORD)
    learned = example.input_ids[example.num_prompt :].tolist()
    assert learned[-1] == tokenizer.eos_token_id
    assert learned.count(tokenizer.eos_token_id) == 1
    assert example.input_ids.tolist().count(tokenizer.bos_token_id) == 0


def test_eos_is_learned_where_padding_uses_the_same_id(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (example,) = encode(tokenizer, "alpaca", RECORD)
    assert example.input_ids[-1] == tokenizer.eos_token_id


def test_a_long_response_is_cut_without_an_end_and_a_long_prompt_left_out(tokenizer):
    long_answer = {**RECORD, "output": "story " * 500}
    long_question = {**RECORD, "instruction": "story " * 500}
    (example,) = encode(tokenizer, "alpaca", long_answer, long_question)
    assert len(example.input_ids) == 200
    assert tokenizer.eos_token_id not in example.input_ids


def test_equal_text_has_an_equal_hash_and_other_text_another(tokenizer):
    first, second, third = encode(tokenizer, "alpaca", RECORD, RECORD, {**RECORD, "output": "No."})
    assert first.digest == second.digest != third.digest


def test_a_length_below_the_templates_own_is_refused(tokenizer):
    with pytest.raises(ValueError, match="the template alone takes"):
        Encoder(tokenizer, load_template("alpaca", tokenizer), 16).check()


def test_a_tokenizer_without_eos_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        Encoder(tokenizer, load_template("alpaca", tokenizer), 200).check()
