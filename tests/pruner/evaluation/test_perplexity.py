import json
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pruner.evaluation.perplexity import load_text, perplexity
from tests.real_data import STORIES


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def input_ids():
    return torch.randint(61, (101,), generator=torch.Generator().manual_seed(1))


def test_it_is_the_exponential_of_the_mean_loss_over_windows_read_alone(model, input_ids):
    losses = [
        F.cross_entropy(model(window[None]).logits[0, :-1], window[1:], reduction="none")
        for window in input_ids[:96].split(16)
    ]
    expected = torch.cat(losses).mean().exp().item()
    assert perplexity(model, input_ids, seq_len=16) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batching_does_not_change_the_result(model, input_ids, batch_size):
    alone = perplexity(model, input_ids, seq_len=16, batch_size=1)
    assert perplexity(model, input_ids, seq_len=16, batch_size=batch_size) == pytest.approx(alone, rel=1e-5)


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(model, input_ids):
    ignorant = LlamaForCausalLM(model.config)
    torch.nn.init.zeros_(ignorant.lm_head.weight)
    assert perplexity(ignorant.eval(), input_ids, seq_len=8) == pytest.approx(61, rel=1e-5)


def test_every_batch_is_tracked(model, input_ids):
    seen = []

    def track(items, description, total=None):
        for item in items:
            seen.append((description, total))
            yield item

    perplexity(model, input_ids, seq_len=16, batch_size=4, track=track)
    assert seen == [("perplexity", 2)] * 2


def test_a_text_shorter_than_a_window_is_refused(model, input_ids):
    with pytest.raises(ValueError, match="10 tokens, fewer than one window of 16"):
        perplexity(model, input_ids[:10], seq_len=16)


@pytest.mark.parametrize("seq_len", [1, 33])
def test_a_window_that_the_context_cannot_hold_is_refused(model, input_ids, seq_len):
    with pytest.raises(ValueError, match="between 2 and 32"):
        perplexity(model, input_ids, seq_len=seq_len)


@pytest.fixture(scope="module")
def tokenizer():
    if not STORIES.exists():
        pytest.skip(f"needs {STORIES}")
    return AutoTokenizer.from_pretrained(STORIES)


def test_rows_are_joined_by_an_empty_line(tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": row}) for row in ["One day.", "The end."]))
    assert load_text(str(file), tokenizer).tolist() == tokenizer("One day.\n\nThe end.").input_ids


def test_wikitext_lines_become_the_rows_of_the_hub(tokenizer, tmp_path):
    file = tmp_path / "wiki.test.raw"
    file.write_text(" \n = Title = \n \n A day .\n")
    expected = tokenizer("\n\n".join(["", " = Title = \n", "", " A day .\n"])).input_ids
    assert load_text(str(file), tokenizer).tolist() == expected


def test_a_text_file_is_taken_as_it_is_and_cut_where_asked(tokenizer, tmp_path):
    file = tmp_path / "story.txt"
    file.write_text("Once upon a time there was a cat.\n\n\nIt slept.")
    expected = tokenizer(file.read_text()).input_ids
    assert load_text(str(file), tokenizer).tolist() == expected
    assert load_text(str(file), tokenizer, max_tokens=5).tolist() == expected[:5]


def test_a_row_without_text_is_named(tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:2: expected text .* got body"):
        load_text(str(file), tokenizer)


def test_an_empty_text_is_refused(tokenizer, tmp_path):
    file = tmp_path / "empty.txt"
    file.write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        load_text(str(file), tokenizer)


def test_a_model_that_learned_stories_is_less_perplexed_by_one_than_by_noise(tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(STORIES).eval()
    story = "Once upon a time, there was a little girl named Lily. She loved to play in the park. " * 4
    file = tmp_path / "story.txt"
    file.write_text(story)
    input_ids = load_text(str(file), tokenizer)
    shuffled = input_ids[torch.randperm(len(input_ids), generator=torch.Generator().manual_seed(0))]
    told, noise = perplexity(model, input_ids, 32), perplexity(model, shuffled, 32)
    assert math.isfinite(noise)
    assert told < 15 < 100 < noise


def test_the_penn_treebanks_own_file_reads_as_its_data_set_on_the_hub(stories, tmp_path):
    sentences = ["no it was n't black monday", "but while the <unk> fell it did n't fall apart"]
    (tmp_path / "ptb.valid.txt").write_text("".join(f" {sentence} \n" for sentence in sentences))
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"sentence": "{each}"}}\n' for each in sentences))
    own, rows = (load_text(str(tmp_path / name), stories[1]) for name in ("ptb.valid.txt", "rows.jsonl"))
    assert torch.equal(own, rows)
