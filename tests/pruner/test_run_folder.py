import json

import pytest

from pruner.run_folder import RunFolder, beside, content_identity, differences, done_record, mark_done

SETTLED = {"pruner": {"budget": {"ratio": 0.2}}, "seed_everything": 1}
OTHER = {"pruner": {"budget": {"ratio": 0.3}}, "seed_everything": 1}


def test_a_folder_is_complete_only_once_it_is_marked(tmp_path):
    assert done_record(tmp_path / "stage") is None
    mark_done(tmp_path / "stage", {"model": "abc"})
    assert done_record(tmp_path / "stage") == {"model": "abc"}


def test_a_mark_leaves_nothing_half_written_beside_it(tmp_path):
    mark_done(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["DONE"]


def test_processes_of_one_number_on_two_nodes_prepare_a_file_in_two_places(tmp_path, monkeypatch):
    here = beside(tmp_path / "plan.json")
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    assert here.parent == beside(tmp_path / "plan.json").parent == tmp_path
    assert here != beside(tmp_path / "plan.json")


def test_a_fresh_folder_takes_the_configuration(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.claim("ratio: 0.2\n", SETTLED, None)
    assert run.config.read_text() == "ratio: 0.2\n"


def test_the_same_configuration_may_come_back(tmp_path):
    run = RunFolder(tmp_path)
    run.claim("first\n", SETTLED, None)
    run.claim("second\n", SETTLED, SETTLED)
    assert run.config.read_text() == "first\n"


@pytest.mark.parametrize(
    "made", ["plan.json", "pruned", "adapter", "recovered", "checkpoints", "metrics.json"]
)
def test_another_configuration_is_refused_by_name_and_changes_nothing(tmp_path, made):
    run = RunFolder(tmp_path)
    run.claim("first\n", SETTLED, None)
    (tmp_path / made).mkdir()
    with pytest.raises(ValueError, match=r"pruner\.budget\.ratio: 0\.2 -> 0\.3"):
        run.claim("second\n", OTHER, SETTLED)
    assert run.config.read_text() == "first\n"


def test_a_folder_in_which_nothing_was_made_takes_a_corrected_configuration(tmp_path):
    run = RunFolder(tmp_path)
    run.claim("first\n", SETTLED, None)
    for left_by_loggers_and_slurm in ("logs", "jobs"):
        (tmp_path / left_by_loggers_and_slurm).mkdir()
    run.claim("second\n", OTHER, SETTLED)
    assert run.config.read_text() == "second\n"
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "jobs", "logs"}


def test_a_folder_that_holds_somebody_elses_plan_is_refused(tmp_path):
    run = RunFolder(tmp_path)
    run.plan.write_text("{}")
    with pytest.raises(ValueError, match="without config"):
        run.claim("first\n", SETTLED, None)


def test_differences_name_every_leaf_that_was_added_removed_or_changed():
    left, right = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}, "e": 5}
    assert list(differences(left, right)) == ["b.c: 2 -> 4", "b.d: 3 -> None", "e: None -> 5"]


def test_identity_follows_content_not_place(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text(json.dumps({"hidden_size": 64}))
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    assert content_identity(here) == content_identity(there)
    (tmp_path / "there" / "config.json").write_text(json.dumps({"hidden_size": 65}))
    assert content_identity(here) != content_identity(there)


def test_identity_of_a_hub_name_is_the_name():
    assert content_identity("meta-llama/Llama-3.1-8B") != content_identity("meta-llama/Llama-3-8B")
