"""Records are tokenised once, split by hash, and labelled where there is something to learn."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lit_modules.collation import IGNORED
from pruner.records import read_records


def ready(data, world_size=1, rank=0, accumulation=1):
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(
        accumulate_grad_batches=accumulation,
        world_size=world_size,
        global_rank=rank,
        training=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def first_batches(data, count):
    batches = iter(data.train_dataloader())
    return [data.on_after_batch_transfer(next(batches), 0) for _ in range(count)]


def test_labels_are_the_responses_tokens_and_eos_and_nothing_else(make_data):
    data = ready(make_data())
    outputs = {row["output"].strip() for row, _ in read_records(data.path)}
    for batch in first_batches(data, 10):
        for ids, kept, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"]):
            learned = labels[labels != IGNORED]
            assert learned[-1] == data.tokenizer.eos_token_id
            assert data.tokenizer.decode(learned[:-1]).strip() in outputs
            assert torch.equal(ids[labels != IGNORED], learned)
            assert not (labels[kept == 0] != IGNORED).any()


def test_batches_count_their_tokens(make_data):
    for batch in first_batches(ready(make_data()), 3):
        assert batch["tokens"] == batch["attention_mask"].sum()


def test_the_held_out_share_is_the_same_in_every_order_of_the_records(make_data, tmp_path):
    data = ready(make_data())
    lines = Path(data.path).read_text().splitlines()
    (tmp_path / "reversed.jsonl").write_text("\n".join(lines[::-1]))
    other = ready(make_data(str(tmp_path / "reversed.jsonl")))
    assert set(data.samples.examples.digests[data.samples.held_out]) == set(
        other.samples.examples.digests[other.samples.held_out]
    )
    assert 0 < len(data.samples.held_out) < len(data.samples.learned)
    assert not set(data.samples.held_out) & set(data.samples.learned)


def test_a_cache_is_built_once_and_used_again(make_data):
    data = make_data()
    data.prepare_data()
    written = {file: file.stat().st_mtime_ns for file in data.caches[0].iterdir()}
    again = make_data(batch_size=4, seed=9)
    again.prepare_data()
    assert again.caches == data.caches
    assert {file: file.stat().st_mtime_ns for file in data.caches[0].iterdir()} == written


def test_a_cache_is_named_by_content_and_settings(make_data, tmp_path):
    (tmp_path / "copy.jsonl").write_bytes(Path(make_data().path).read_bytes())
    assert make_data(str(tmp_path / "copy.jsonl")).caches == make_data().caches
    (tmp_path / "copy.jsonl").write_text('{"instruction": "a", "output": "b"}')
    assert make_data(str(tmp_path / "copy.jsonl")).caches != make_data().caches
    assert make_data(max_length=64).caches != make_data().caches
    assert make_data(template="{instruction} {response}").caches != make_data().caches


def test_a_build_that_fails_leaves_nothing_behind(make_data, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text(
        json.dumps({"instruction": "a", "output": "b"}) + '\n{"instruction": "a", "output": ""}\n'
    )
    data = make_data(str(file))
    with pytest.raises(ValueError, match=r"bad\.jsonl:2: the field output is empty"):
        data.prepare_data()
    assert not any(data.cache_dir.iterdir())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"validation_share": 1.0}, "validation_share"),
        ({"batch_size": 0}, "must be positive"),
        ({"path": "nowhere.json"}, "there is no file"),
        ({"path": "self"}, "needs data.answers.prompts"),
        ({"path": {"alpaca": 0}}, "how often each is seen.*alpaca"),
        ({"batching": "sorted"}, "must be padded, by_length or packed"),
        ({"pack_length": 100}, "pack_length no less than max_length 128"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(make_data, settings, message):
    with pytest.raises(ValueError, match=message):
        make_data(**settings)


def test_an_empty_data_set_is_refused(make_data, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"no example to learn from.*empty\.jsonl"):
        make_data(str(tmp_path / "empty.jsonl")).prepare_data()


BATCHINGS = ["padded", "by_length", "packed"]


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_saved_position_continues_where_it_was_saved(make_data, num_workers, batching):
    settings = {"num_workers": num_workers, "validation_share": 0.0, "batching": batching}
    expected = [batch["rows"].tolist() for batch in first_batches(ready(make_data(**settings)), 12)]
    stopped = ready(make_data(**settings))
    assert [batch["rows"].tolist() for batch in first_batches(stopped, 5)] == expected[:5]
    resumed = ready(make_data(**settings))
    resumed.load_state_dict(stopped.state_dict())
    assert [batch["rows"].tolist() for batch in first_batches(resumed, 7)] == expected[5:]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_two_ranks_take_over_from_one_without_seeing_a_row_twice(make_data, batching):
    settings = {"validation_share": 0.0, "batching": batching, "batch_size": 1, "max_length": 64}
    alone = ready(make_data(**settings))
    num_bundles = len(alone.samples.order.bundling) // 2 * 2
    seen = [row for batch in first_batches(alone, 6) for row in batch["rows"].tolist()]
    for rank in range(2):
        data = ready(make_data(**settings), world_size=2, rank=rank)
        data.load_state_dict(alone.state_dict())
        seen += [row for batch in first_batches(data, num_bundles // 2 - 3) for row in batch["rows"].tolist()]
    assert len(set(seen)) == len(seen)
    if num_bundles == len(alone.samples.order.bundling):
        assert sorted(seen) == alone.samples.learned.tolist()


def test_a_packed_row_holds_its_samples_one_after_another(make_data):
    data = ready(make_data(batching="packed", pack_length=160))
    for batch in first_batches(data, 6):
        rows, places = iter(batch["rows"].tolist()), batch["position_ids"]
        assert places.shape == batch["input_ids"].shape == batch["labels"].shape == (2, 160)
        for ids, labels, positions in zip(batch["input_ids"], batch["labels"], places):
            starts = [*torch.nonzero(positions == 0).flatten().tolist(), 160]
            pieces = [(start, end) for start, end in itertools.pairwise(starts) if ids[start:end].any()]
            assert len(pieces) > 1
            for start, end in pieces:
                row = next(rows)
                assert np.array_equal(ids[start:end], data.samples.examples.input_ids(row))
                learned = (labels[start:end] != IGNORED).tolist()
                assert learned == [
                    place >= data.samples.examples.num_prompts[row] for place in range(end - start)
                ]
        assert next(rows, None) is None


def test_batches_by_length_hold_neighbours(make_data):
    data = ready(make_data(batching="by_length", batch_size=4))
    spread = [
        float(np.ptp(data.samples.examples.lengths[batch["rows"].numpy()]))
        for batch in first_batches(data, 7)
    ]
    assert np.mean(spread) < np.ptp(data.samples.examples.lengths) / 4


@pytest.mark.parametrize("batching", BATCHINGS)
def test_every_held_out_example_is_seen_once(make_data, batching):
    data = ready(make_data(batching=batching, validation_share=0.4))
    rows = [row for batch in data.val_dataloader() for row in batch["rows"].tolist() if row >= 0]
    assert sorted(rows) == data.samples.held_out.tolist()


def test_several_sources_are_seen_as_often_as_their_weights_say(make_data, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join(json.dumps({"instruction": f"Say {n}", "output": f"{n} {n}"}) + "\n" for n in range(30))
    )
    first = make_data().path
    data = ready(make_data({first: 2.0, str(other): 0.5}))
    again = ready(make_data({first: 2.0, str(other): 0.5}, seed=5))
    counts = np.bincount(data.samples.learned, minlength=len(data.samples.examples))
    learned = np.setdiff1d(np.arange(70), data.samples.held_out)
    assert set(counts[learned[learned < 40]]) == {2}
    assert set(counts[learned[learned >= 40]]) == {0, 1}
    assert counts[40:].sum() == round(0.5 * (learned >= 40).sum())
    assert np.array_equal(again.samples.learned, data.samples.learned)
    bundles = data.samples.order.bundles(0, len(data.samples.learned))
    assert sorted(np.concatenate(bundles)) == list(range(len(data.samples.learned)))


def test_a_source_is_tokenised_once_alone_and_among_others(make_data, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"instruction": "a", "output": "b"}')
    alone = make_data()
    both = make_data({alone.path: 1, str(tmp_path / "other.jsonl"): 3})
    assert both.caches[0] == alone.caches[0]


def test_published_data_goes_by_short_names(make_data):
    from lit_modules.sources import weights_of

    assert weights_of("alpaca") == {"yahma/alpaca-cleaned": 1.0}
    assert weights_of({"lamini": 0.5, "x.json": 2}) == {"MBZUAI/LaMini-instruction": 0.5, "x.json": 2}


def test_a_position_in_other_data_is_refused(make_data):
    data = ready(make_data())
    other = ready(make_data(max_length=64))
    with pytest.raises(ValueError, match=r"other data.*data\.examples"):
        other.load_state_dict(data.state_dict())


def test_an_epoch_is_a_whole_number_of_optimizer_steps(make_data):
    data = ready(make_data(validation_share=0.0), accumulation=3)
    assert len(data.train_dataloader()) == 18
    tiny = ready(make_data(validation_share=0.0), accumulation=100)
    assert len(tiny.train_dataloader()) == 100


def test_everything_held_out_is_refused(make_data, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    with pytest.raises(ValueError, match="held out"):
        ready(make_data(str(tmp_path / "one.jsonl"), validation_share=0.999999))


def test_the_cache_gives_back_what_was_encoded(make_data):
    data = ready(make_data())
    lengths = [len(data.samples.examples.input_ids(row)) for row in range(len(data.samples.examples))]
    assert np.array_equal(lengths, data.samples.examples.lengths)


def portioned(make_data, path, folder, world_size=1, rank=0):
    """A stream of 96 records, 40 at a time."""
    data = make_data(str(path), portion_size=40, batch_size=2, num_workers=1, cache_dir=str(folder))
    data.trainer = SimpleNamespace(
        accumulate_grad_batches=2,
        world_size=world_size,
        global_rank=rank,
        local_rank=0,
        training=True,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        max_steps=100,
        max_epochs=-1,
        default_root_dir=str(folder / "run"),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def epochs(data, count):
    """The batches of so many portions, one after another."""
    for _ in range(count):
        for batch in data.train_dataloader():
            yield data.on_after_batch_transfer(batch, 0)


@pytest.fixture
def stream(tmp_path):
    path = tmp_path / "stream.jsonl"
    rows = (
        {"instruction": f"Story {number}", "output": "Once upon " * (1 + number % 5)} for number in range(96)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_stream_gives_all_that_is_not_held_out_once_a_pass_and_keeps_two_portions(
    make_data, stream, tmp_path
):
    data, whole = portioned(make_data, stream, tmp_path / "parts"), ready(make_data(str(stream)))
    seen, held_out = [], []
    for _ in range(3):
        for batch in epochs(data, 1):
            seen += data.samples.examples.digests[batch["rows"][batch["rows"] >= 0].numpy()].tolist()
        held_out += data.samples.examples.digests[data.samples.held_out].tolist()
        assert len([folder for folder in (tmp_path / "parts").iterdir() if folder.is_dir()]) <= 2
    expected = whole.samples
    assert sorted(seen) == sorted(expected.examples.digests[expected.learned].tolist())
    assert sorted(held_out) == sorted(expected.examples.digests[expected.held_out].tolist())
    assert (data.portion, data.passes) == (2, 0)
    for portion in range(2):
        for _ in epochs(data, 1):
            pass
        assert (data.portion, data.passes) == (portion, 1)
        assert len([folder for folder in (tmp_path / "parts").iterdir() if folder.is_dir()]) <= 2


@pytest.mark.parametrize("stop", [3, 8, 17, 30])
def test_a_stream_goes_on_where_it_was_saved_on_another_machine(make_data, stream, tmp_path, stop):
    expected = [
        batch["input_ids"].tolist() for batch in epochs(portioned(make_data, stream, tmp_path / "a"), 5)
    ]
    stopped = portioned(make_data, stream, tmp_path / "b")
    for _ in zip(range(stop // 2 * 2), epochs(stopped, 5)):
        pass
    resumed = portioned(make_data, stream, tmp_path / "c")
    resumed.load_state_dict(stopped.state_dict())
    rest = [batch["input_ids"].tolist() for batch in epochs(resumed, 5)]
    assert rest[: len(expected) - stop // 2 * 2] == expected[stop // 2 * 2 :]


def test_a_stream_without_an_end_is_refused(make_data, stream, tmp_path):
    data = portioned(make_data, stream, tmp_path / "parts")
    data.trainer.max_steps = -1
    with pytest.raises(ValueError, match=r"set trainer\.max_steps"):
        data.setup("fit")
