import dataclasses
import json
import shutil

import pytest

from pruner.evaluation.measures import DEPENDS, MEASURES, measurement_key
from pruner.evaluation.models import Evaluation, evaluate_models
from tests.real_data import STORIES

pytestmark = pytest.mark.skipif(not STORIES.exists(), reason=f"needs {STORIES}")


@pytest.fixture
def settings(tmp_path):
    text = tmp_path / "story.txt"
    text.write_text("Once upon a time, there was a little girl named Lily. She had a red ball. " * 20)
    return Evaluation(
        texts=(str(text),),
        seq_len=32,
        prompts=("Once upon a time", "The dog"),
        max_new_tokens=8,
        speed_prompt_tokens=8,
        speed_new_tokens=4,
        speed_repeats=1,
        device="cpu",
    )


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(STORIES, tmp_path / "model")
    return tmp_path / "model"


def test_every_figure_is_written_for_every_model(settings, folder, tmp_path):
    models = {"dense": STORIES, "copy": folder}
    measured = evaluate_models(models, settings, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["models"] == measured
    dense, copy = measured["dense"], measured["copy"]
    assert list(measured) == ["dense", "copy"]
    assert dense["class"] == "LlamaForCausalLM"
    for name in ("size", "perplexity", "samples"):
        assert dense[name] == copy[name]
    assert dense["size"]["parameters"] > dense["size"]["decoder_parameters"] > 0
    assert 1 < dense["perplexity"]["values"]["story.txt"]["value"] < 10
    assert [sample["prompt"] for sample in dense["samples"]["values"]] == list(settings.prompts)
    assert dense["speed"]["prefill_seconds"] > 0
    assert (tmp_path / "out" / "report.html").exists()


def test_what_was_measured_is_not_measured_again(settings, folder, tmp_path):
    first = evaluate_models({"dense": folder}, settings, tmp_path / "out")
    again = evaluate_models({"dense": folder}, settings, tmp_path / "out")
    assert again == first


def test_only_what_a_changed_setting_concerns_is_measured_again(settings, folder, tmp_path):
    first = evaluate_models({"dense": folder}, settings, tmp_path / "out")["dense"]
    longer = dataclasses.replace(settings, max_new_tokens=12)
    again = evaluate_models({"dense": folder}, longer, tmp_path / "out")["dense"]
    assert again["samples"] != first["samples"]
    assert {**again, "samples": None} == {**first, "samples": None}


def test_another_model_under_the_same_label_keeps_nothing(settings, folder, tmp_path):
    first = evaluate_models({"dense": folder}, settings, tmp_path / "out")["dense"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    changed = dataclasses.replace(settings, prompts=())
    again = evaluate_models({"dense": folder}, changed, tmp_path / "out")["dense"]
    assert again["perplexity"]["values"] != first["perplexity"]["values"]
    assert "samples" not in again


def test_an_interrupted_evaluation_keeps_what_it_had(settings, folder, tmp_path):
    with pytest.raises(ValueError, match="context"):
        evaluate_models(
            {"dense": folder}, dataclasses.replace(settings, max_new_tokens=512), tmp_path / "out"
        )
    row = json.loads((tmp_path / "out" / "metrics.json").read_text())["models"]["dense"]
    assert "perplexity" in row
    assert "samples" not in row


def test_what_is_missing_is_found_before_a_model_is_loaded(settings, tmp_path):
    missing = dataclasses.replace(settings, texts=("nowhere.txt",))
    with pytest.raises(ValueError, match=r"nowhere\.txt"):
        evaluate_models({"dense": "no model here either"}, missing, tmp_path / "out")
    unknown = dataclasses.replace(settings, tasks=("piqa",), tasks_folder="nowhere")
    with pytest.raises(ValueError, match="none at nowhere"):
        evaluate_models({"dense": "no model here either"}, unknown, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_metrics_is_left_as_it_is(settings, folder, tmp_path):
    (tmp_path / "metrics.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="move it away"):
        evaluate_models({"dense": folder}, settings, tmp_path)
    assert (tmp_path / "metrics.json").read_text() == '{"mine": 1}'


def test_every_setting_changes_the_key_of_some_measurement_or_only_how_fast_it_is_made():
    speed_of_making = {"batch_size", "speed", "trust_remote_code"}
    used = {field for fields in DEPENDS.values() for field in fields} | {"dtype", "device"}
    assert used | speed_of_making == {field.name for field in dataclasses.fields(Evaluation)}
    assert set(DEPENDS) == set(MEASURES)


def test_a_text_that_changes_changes_the_key(tmp_path):
    text = tmp_path / "text.txt"
    settings = Evaluation(texts=(str(text),))
    text.write_text("one")
    before = measurement_key("perplexity", settings)
    text.write_text("two")
    assert measurement_key("perplexity", settings) != before
