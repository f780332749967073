"""Records become prompts and responses, or are refused at their place."""

import pytest

from lit_modules.templates import ChatTemplate, Example, example_of, load_template

PLAIN = Example("Add 1 and 2.", "", "3")
WITH_INPUT = Example("Add.", "1, 2", "3")


def test_alpaca_mentions_an_input_only_where_there_is_one(tokenizer):
    template = load_template("alpaca", tokenizer)
    assert template(PLAIN)[0].endswith("### Instruction:\nAdd 1 and 2.\n\n### Response:\n")
    assert template(WITH_INPUT)[0].endswith("### Input:\n1, 2\n\n### Response:\n")
    assert template(WITH_INPUT)[1] == "3"


def test_braces_in_a_record_are_left_alone(tokenizer):
    template = load_template("alpaca", tokenizer)
    prompt, response = template(Example("Explain {x}", "{input}", "a {response}"))
    assert "Explain {x}" in prompt
    assert "{input}" in prompt
    assert response == "a {response}"


def test_what_follows_the_response_slot_is_learned(tokenizer):
    prompt, response = load_template("{instruction} -> {response} <end>", tokenizer)(PLAIN)
    assert (prompt, response) == ("Add 1 and 2. -> ", "3 <end>")


def test_a_template_without_an_input_slot_puts_the_input_after_the_instruction(tokenizer):
    assert load_template("{instruction}: {response}", tokenizer)(WITH_INPUT)[0] == "Add.\n\n1, 2: "


def test_a_template_may_come_from_a_file(tokenizer, tmp_path):
    (tmp_path / "words.txt").write_text("{{literal}} {instruction}={response}")
    assert load_template(str(tmp_path / "words.txt"), tokenizer)(PLAIN)[0] == "{literal} Add 1 and 2.="


@pytest.mark.parametrize(
    "template, message",
    [
        ("{instruction}", "one slot {response}"),
        ("{response} {response}", "one slot {response}"),
        ("{instruction} {outptu} {response}", "one slot {response}"),
        ("{instruction} {response", "braces do not match"),
        ("no_such_file.txt", "a file that exists"),
        ("chat", "no chat template"),
    ],
)
def test_a_template_that_cannot_work_is_refused(tokenizer, template, message):
    with pytest.raises(ValueError, match=message):
        load_template(template, tokenizer)


@pytest.mark.parametrize(
    "record, message",
    [
        ({"text": "x"}, "data:7: expected the fields instruction"),
        ({"instruction": "x"}, "data:7: expected the fields instruction"),
        ({"instruction": "x", "output": " \n"}, "data:7: the field output is empty"),
        ({"instruction": "x", "response": ""}, "data:7: the field response is empty"),
        ({"instruction": None, "output": "y"}, "data:7: expected the fields instruction"),
    ],
)
def test_a_record_that_teaches_nothing_is_refused_at_its_place(record, message):
    with pytest.raises(ValueError, match=message):
        example_of(record, "data:7")


def test_alpacas_and_laminis_fields_mean_the_same():
    alpaca = example_of({"instruction": "a", "input": "", "output": "b"}, "")
    assert alpaca == example_of({"instruction": "a", "response": "b"}, "")


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_the_chat_template_parts_prompt_from_response(tokenizer):
    tokenizer.chat_template = CHAT
    prompt, response = ChatTemplate(tokenizer)(WITH_INPUT)
    assert prompt == "<user>Add.\n\n1, 2</s>\n<assistant>"
    assert response == "3</s>\n"


def test_a_chat_template_that_hides_its_prompt_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(ValueError, match="cannot be told apart"):
        ChatTemplate(tokenizer)(PLAIN)
