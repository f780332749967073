import json

import pytest
import torch

from pruner.calibration import Calibration, draw_samples, load_calibration
from pruner.importance.backward import language_loss


@pytest.fixture
def tokenizer(stories):
    return stories[1]


@pytest.fixture
def rows():
    return [
        f"Once upon a time there was a {thing}. " * (3 + i) for i, thing in enumerate(["cat", "dog", "sun"])
    ]


@pytest.fixture
def jsonl(tmp_path, rows):
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return str(file)


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(jsonl, tokenizer):
    first, again, other = (
        load_calibration(Calibration(jsonl, 2, 16, seed=seed), tokenizer) for seed in (0, 0, 1)
    )
    assert torch.equal(first.input_ids, again.input_ids)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(first.input_ids, other.input_ids)


def test_samples_do_not_depend_on_the_machine(jsonl, tokenizer):
    assert load_calibration(Calibration(jsonl, 2, 8), tokenizer).fingerprint == "eb54a079071a415a"


def test_every_sample_is_a_window_of_one_document(jsonl, tokenizer, rows):
    documents = [tokenizer(row)["input_ids"] for row in rows]
    samples = load_calibration(Calibration(jsonl, 6, 16), tokenizer).input_ids.tolist()
    for sample in samples:
        assert any(sample == d[i : i + 16] for d in documents for i in range(len(d) - 15))


def test_each_document_gives_one_sample_before_any_gives_two(jsonl, tokenizer, rows):
    samples = load_calibration(Calibration(jsonl, 3, 16), tokenizer).input_ids.tolist()
    texts = [tokenizer.decode(sample) for sample in samples]
    assert all(sum(thing in text for text in texts) == 1 for thing in ["cat", "dog", "sun"])


@pytest.mark.parametrize("suffix", [".txt", ".parquet"])
def test_text_and_parquet_hold_the_same_words_as_json_lines(tmp_path, jsonl, tokenizer, rows, suffix):
    file = tmp_path / f"text{suffix}"
    if suffix == ".txt":
        file.write_text(rows[0])
        jsonl = tmp_path / "one.jsonl"
        jsonl.write_text(json.dumps({"text": rows[0]}))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), file)
    ours, theirs = (load_calibration(Calibration(str(path), 2, 16), tokenizer) for path in (file, jsonl))
    assert ours.fingerprint == theirs.fingerprint


def test_too_little_text_says_how_much_there_is(jsonl, tokenizer, rows):
    count = sum(len(tokenizer(row)["input_ids"]) for row in rows)
    with pytest.raises(ValueError, match=f"100 samples of 16 tokens.*3 documents with {count} tokens"):
        load_calibration(Calibration(jsonl, 100, 16), tokenizer)


def test_a_row_without_text_is_named(tmp_path, tokenizer):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "fine"}\n{"body": "wrong"}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl:2: expected text in field 'text', got fields body"):
        load_calibration(Calibration(str(file), 1, 2), tokenizer)


@pytest.mark.parametrize("wrong", [{"num_samples": 0}, {"seq_len": 1}])
def test_an_empty_calibration_is_refused_at_once(wrong):
    with pytest.raises(ValueError, match="at least 1 sample of at least 2 tokens"):
        Calibration("text.txt", **wrong)


def test_the_model_writes_its_own_text_the_same_for_the_same_seed(stories):
    model, tokenizer = stories
    first, again, other = (
        draw_samples(Calibration("self", 5, 24, seed=seed), model, tokenizer) for seed in (0, 0, 1)
    )
    assert first.input_ids.shape == (5, 24)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not set(first.input_ids[:, 0].tolist()) & set(tokenizer.all_special_ids)


def test_what_a_model_writes_is_likelier_to_it_than_shuffled_tokens(stories):
    model, tokenizer = stories
    ids = draw_samples(Calibration("self", 8, 48), model, tokenizer).input_ids
    shuffled = ids[:, torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    assert language_loss(model, ids).mean() < language_loss(model, shuffled).mean() - 1


def test_writing_text_leaves_the_random_state_alone(stories):
    model, tokenizer = stories
    before = torch.get_rng_state()
    draw_samples(Calibration("self", 2, 8), model, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_cannot_write_is_told_so(stories):
    model, tokenizer = stories
    model.model.layers[2].mlp.up_proj.weight.data[0, 0] = torch.nan
    settings = Calibration("self", num_samples=2, seq_len=8)
    with pytest.raises(ValueError, match="predictions at token 1 are not finite; load the model in bfloat16"):
        draw_samples(settings, model, tokenizer)
