"""The whole path through the command line, on a real model of 260 thousand parameters."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import cli
from pruner.plan import PruningPlan

CONFIG = {
    "seed_everything": 1,
    "model": {"learning_rate": 1e-3, "warmup_steps": 2, "lora": {"r": 4, "alpha": 8, "dropout": 0.1}},
    "pruner": {
        "budget": {"ratio": 0.25},
        "protect_first": 1,
        "protect_last": 0,
        "criterion": "taylor_first",
        "compensation": None,
        "calibration": {"num_samples": 4, "seq_len": 32},
    },
    "data": {"template": "{instruction}{response}", "max_length": 64, "batch_size": 4, "num_workers": 0},
    "evaluation": {"seq_len": 64, "speed": False, "prompts": ["Once upon a time"], "max_new_tokens": 8},
    "checkpointing": {"every_steps": 4},
    "trainer": {"accelerator": "cpu", "max_steps": 12, "logger": False},
}
STORY = "Once upon a time there was a girl named Lily. She loved to play in the park with her big red ball. "


@pytest.fixture(scope="module")
def options(data, tmp_path_factory):
    """Options of every command on a run: model, texts and a place for the cache, all local."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    rows = [{"text": STORY * 3, "instruction": STORY, "output": f"{STORY} She was {i}."} for i in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.txt").write_text("Tom had a dog. The dog liked to run and jump. " * 30)
    return [
        f"--config={folder / 'config.yaml'}",
        f"--model.model_name_or_path={data / 'stories260K'}",
        f"--pruner.calibration.path={folder / 'rows.jsonl'}",
        f"--data.path={folder / 'rows.jsonl'}",
        f"--data.cache_dir={folder / 'cache'}",
        f"--evaluation.texts=[{folder / 'held_out.txt'}]",
    ]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """A run that went the whole path."""
    run = tmp_path_factory.mktemp("run") / "stories"
    assert cli.main(["fit", *options, f"--run_dir={run}"]) == 0
    return run


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "stories")


def test_fit_leaves_everything_a_run_folder_promises(finished):
    made = {
        "config.yaml",
        "plan.json",
        "pruned",
        "adapter",
        "recovered",
        "metrics.json",
        "report.html",
        "DONE",
    }
    assert made <= {path.name for path in finished.iterdir()}


def test_the_budget_is_reached_within_a_unit(finished):
    budget = PruningPlan.load(finished / "plan.json").budget
    assert budget["reached_ratio"] == pytest.approx(0.25, abs=0.01)


def test_recovery_learns(finished):
    models = json.loads((finished / "metrics.json").read_text())["models"]
    pruned, recovered = (
        models[label]["perplexity"]["values"]["held_out.txt"]["value"] for label in ("pruned", "recovered")
    )
    assert recovered < pruned


def test_a_second_fit_says_that_it_is_done_and_touches_nothing(finished, options, caplog):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with caplog.at_level("INFO"):
        assert cli.main(["fit", *options, f"--run_dir={finished}"]) == 0
    assert "is complete" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_configuration_is_refused_by_name(finished, options, capsys):
    assert cli.main(["fit", *options, f"--run_dir={finished}", "--pruner.budget.ratio=0.3"]) == 2
    assert "pruner.budget.ratio: 0.25 -> 0.3" in capsys.readouterr().err


def test_a_run_that_failed_before_it_made_anything_takes_a_corrected_configuration(options, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["prune", *options, f"--run_dir={run}", "--pruner.budget.ratio=0.99"]) == 2
    assert [made.name for made in run.iterdir()] == ["config.yaml"]
    assert cli.main(["prune", *options, f"--run_dir={run}"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["pruner"]["budget"]["ratio"] == 0.25


def test_pruning_ends_with_what_was_reached(finished, options, caplog):
    with caplog.at_level("INFO"):
        assert cli.main(["prune", *options, f"--run_dir={finished}"]) == 0
    plan = PruningPlan.load(finished / "plan.json")
    counts = f"{plan.model['parameters']:,} → {plan.budget['parameters']:,} parameters"
    share = f"{plan.budget['reached_ratio']:.2%} of the decoder gone"
    assert f"pruned into {finished / 'pruned'}: {counts}, {share} (already complete" in caplog.text


def test_a_lost_evaluation_is_made_again_without_training(copied, options):
    for name in ("DONE", "metrics.json", "report.html"):
        (copied / name).unlink()
    trained = (copied / "recovered" / "DONE").stat().st_mtime_ns
    assert cli.main(["fit", *options, f"--run_dir={copied}"]) == 0
    assert (copied / "report.html").exists()
    assert (copied / "recovered" / "DONE").stat().st_mtime_ns == trained


def test_a_plan_is_replayed_elsewhere_without_text(finished, options, tmp_path):
    plan = finished / "plan.json"
    replay = [
        "prune",
        *options,
        f"--run_dir={tmp_path}",
        f"--pruner.plan={plan}",
        "--pruner.calibration.path=null",
    ]
    assert cli.main(replay) == 0
    first, second = (
        AutoModelForCausalLM.from_pretrained(run / "pruned", trust_remote_code=True)
        for run in (finished, tmp_path)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_pruned_folder_is_used_as_it_is(copied, options):
    for name in ("DONE", "recovered/DONE"):
        (copied / name).unlink()
    before = (copied / "pruned" / "DONE").stat().st_mtime_ns
    assert cli.main(["fit", *options, f"--run_dir={copied}"]) == 0
    assert (copied / "pruned" / "DONE").stat().st_mtime_ns == before


def test_a_folder_for_streams_that_is_not_there_is_refused_before_a_weight_is_read(options, tmp_path, capsys):
    missing = tmp_path / "nowhere"
    refit = f"--pruner.compensation={{streams: {missing}}}"
    assert cli.main(["prune", *options, f"--run_dir={tmp_path / 'run'}", refit]) == 2
    assert f"compensation.streams must be a folder that is there, got {missing}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_older_release_goes_on_with_the_defaults_of_what_is_new(copied, options):
    """Its configuration and its record of the pruned model lack the settings that have been added since."""
    for name in ("DONE", "recovered/DONE"):
        (copied / name).unlink()
    config = yaml.safe_load((copied / "config.yaml").read_text())
    record = json.loads((copied / "pruned" / "DONE").read_text())
    for pruner in (config["pruner"], record["settings"]):
        del pruner["rounds"], pruner["budget"]["layers"]
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    (copied / "pruned" / "DONE").write_text(json.dumps(record))
    shutil.rmtree(copied / "checkpoints")
    before = (copied / "pruned" / "DONE").stat().st_mtime_ns
    assert cli.main(["fit", *options, f"--run_dir={copied}"]) == 0
    assert (copied / "pruned" / "DONE").stat().st_mtime_ns == before


def test_validate_measures_the_newest_model(finished, options, capsys):
    status = cli.main(["validate", *options, f"--run_dir={finished}"])
    assert status == 0


def test_any_folder_generates(finished, capsys):
    arguments = ["--prompt", "Once upon a time", "--max_new_tokens", "5"]
    assert cli.main(["generate", "--model", str(finished / "recovered"), *arguments]) == 0
    assert capsys.readouterr().out.strip()


def test_any_folders_are_evaluated_side_by_side(finished, options, tmp_path):
    models = json.dumps({"pruned": str(finished / "pruned"), "recovered": str(finished / "recovered")})
    texts = next(option for option in options if option.startswith("--evaluation.texts"))
    assert (
        cli.main(
            ["evaluate", "--models", models, "--output", str(tmp_path), texts, "--evaluation.speed=false"]
        )
        == 0
    )
    assert set(json.loads((tmp_path / "metrics.json").read_text())["models"]) == {"pruned", "recovered"}
