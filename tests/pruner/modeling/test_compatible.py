import transformers

from pruner.modeling.compatible import with_old_entries, with_old_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_the_base_frequency_is_written_where_older_releases_look():
    old = with_old_entries(transformers.LlamaConfig(rope_parameters=LLAMA3).to_dict())
    assert old["rope_theta"] == 5e5
    assert old["rope_scaling"] == {key: value for key, value in LLAMA3.items() if key != "rope_theta"}


def test_plain_rope_has_no_scaling():
    old = with_old_entries(transformers.LlamaConfig().to_dict())
    assert old["rope_theta"] == 10000.0
    assert old["rope_scaling"] is None


def test_current_releases_read_the_widened_configuration_as_before():
    config = transformers.LlamaConfig(rope_parameters=LLAMA3)
    assert (
        transformers.LlamaConfig(**with_old_entries(config.to_dict())).rope_parameters
        == config.rope_parameters
    )


def test_a_model_without_rope_is_left_alone():
    config = transformers.BloomConfig().to_dict()
    assert with_old_entries(config) == config


def test_the_tokenizer_class_has_a_name_that_older_releases_know():
    old = with_old_tokenizer({"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"]})
    assert old["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert old["additional_special_tokens"] == ["<a>"]
    assert old["model_input_names"] == ["input_ids", "attention_mask"]
