"""The dense model answers each prompt once, in pieces or at a stretch."""

import json
from dataclasses import replace

import pytest

from lit_modules.self_answers import SelfAnswers, answered_prompts

NUM_PROMPTS = 7


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"instruction": f"Once upon a time there was a cat number {number}"} for number in range(NUM_PROMPTS)
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return SelfAnswers(
        prompts=str(file), max_new_tokens=6, batch_size=2, template="{instruction}{response}", temperature=1.0
    )


def answers(settings, stories, cache):
    return [row["output"] for row, _ in answered_prompts(settings, stories, cache)]


class StoppedError(Exception):
    pass


def stop_after(count):
    def track(items, description, total=None):
        for number, item in enumerate(items):
            if number == count:
                raise StoppedError
            yield item

    return track


def test_a_run_that_was_stopped_continues_to_the_same_answers(settings, stories, tmp_path):
    whole = answers(settings, stories, tmp_path / "whole")
    assert len(whole) == NUM_PROMPTS
    with pytest.raises(StoppedError):
        answered_prompts(settings, stories, tmp_path / "pieces", track=stop_after(2))
    (kept,) = (tmp_path / "pieces").iterdir()
    assert len(kept.read_text().splitlines()) == 4
    with kept.open("a") as file:
        file.write('{"instruction": "torn')
    assert answers(settings, stories, tmp_path / "pieces") == whole


def test_greedy_answers_are_the_models_own_continuation(settings, stories, tmp_path):
    import torch

    from pruner.checkpoint import load_model, load_tokenizer

    greedy = replace(settings, temperature=0.0)
    model, tokenizer = load_model(stories), load_tokenizer(stories)
    for (row, _), answer in zip(
        answered_prompts(greedy, stories, tmp_path), answers(greedy, stories, tmp_path), strict=True
    ):
        ids = torch.tensor([tokenizer(row["instruction"])["input_ids"]])
        for _ in range(greedy.max_new_tokens):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        assert answer
        assert tokenizer.decode(ids[0], skip_special_tokens=True).endswith(answer)


def test_answers_are_kept_apart_by_all_that_they_depend_on(settings, stories, tmp_path):
    digests = {
        settings.digest(stories),
        replace(settings, seed=1).digest(stories),
        replace(settings, max_new_tokens=7).digest(stories),
        settings.digest("another/model"),
    }
    (tmp_path / "prompts.jsonl").write_text('{"instruction": "Hello"}')
    assert len(digests | {settings.digest(stories)}) == 5


def test_recovery_data_can_be_made_of_prompts_alone(settings, make_data):
    data = make_data("self", answers=settings)
    data.prepare_data()
    data.setup("fit")
    assert len(data.samples.examples) == NUM_PROMPTS


def test_no_prompts_are_refused(settings, stories, tmp_path):
    (tmp_path / "prompts.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no prompts"):
        answered_prompts(settings, stories, tmp_path)
