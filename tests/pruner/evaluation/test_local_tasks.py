"""The paper's tasks from local files, each by the metric that it reports; what is missing is named."""

import json
from pathlib import Path

import pytest
import yaml

from pruner.evaluation.harness import check_tasks, run_tasks
from pruner.evaluation.local_tasks import STOCK
from pruner.evaluation.summary import figures

pytest.importorskip("lm_eval")

RECIPE = Path(__file__).parents[3] / "configs/recipes/seven-tasks.yaml"
ITEMS = {
    "boolq": {"passage": "Ice is cold.", "question": "is ice cold", "label": 1},
    "piqa": {"goal": "Cut bread", "sol1": "With a knife", "sol2": "With a cloud", "label": 0},
    "hellaswag": {
        "ctx_a": "A dog sees a ball.",
        "ctx_b": "It",
        "activity_label": "Playing",
        "endings": ["runs to it.", "is a ball.", "reads.", "is blue."],
        "label": "0",
    },
    "winogrande": {
        "sentence": "Tom gave Tim a hat because _ was cold.",
        "option1": "Tom",
        "option2": "Tim",
        "answer": "2",
    },
}
WET = {
    "question": "What is wet?",
    "choices": {"text": ["Water", "Sand"], "label": ["A", "B"]},
    "answerKey": "A",
}
ITEMS |= {"arc_easy": WET, "arc_challenge": WET}
ITEMS["openbookqa"] = {
    "question_stem": "The sun is",
    "choices": {"text": ["hot", "wet"], "label": ["A", "B"]},
    "answerKey": "A",
}


def written(folder, tasks):
    for task in tasks:
        (folder / task).mkdir()
        lines = f"{json.dumps(ITEMS[task])}\n" * 3
        (folder / task / f"{STOCK[task][1]}.jsonl").write_text(lines)
    return folder


def test_the_recipe_runs_all_seven_from_local_files_and_reports_one_metric_of_each(stories, tmp_path):
    tasks = yaml.safe_load(RECIPE.read_text())["evaluation"]["tasks"]
    scores = run_tasks(*stories, tasks, data=written(tmp_path, ITEMS), batch_size=4)
    assert {f"{task}:{metric}" for task, row in scores.items() for metric in row} == set(tasks)
    assert len(tasks) == 7
    assert all(score.num_items == 3 for row in scores.values() for score in row.values())


def test_real_items_are_read_as_they_are(stories, data):
    files = data / "tasks"
    if not files.is_dir():
        pytest.skip(f"needs {files}")
    scores = run_tasks(*stories, ["arc_easy:acc", "boolq", "piqa:acc"], data=files, limit=6)
    assert {task: list(row) for task, row in scores.items()} == {
        "arc_easy": ["acc"],
        "boolq": ["acc"],
        "piqa": ["acc"],
    }


def test_data_that_are_not_there_are_named_before_a_model_is_loaded(tmp_path):
    written(tmp_path, ["boolq"])
    with pytest.raises(ValueError, match=r"lacks .*piqa/validation.jsonl: a line for each item"):
        check_tasks(["boolq", "piqa:acc"], data=tmp_path)
    with pytest.raises(ValueError, match="not lambada; write a YAML file"):
        check_tasks(["lambada"], data=tmp_path)


def test_a_hub_that_cannot_be_reached_is_said_with_the_way_out(stories):
    with pytest.raises(ValueError, match=r"the data of piqa cannot be had(?s:.*)evaluation.tasks_data"):
        run_tasks(*stories, ["piqa"], limit=2)


def test_a_metric_that_a_task_does_not_have_is_refused(stories, tmp_path):
    with pytest.raises(ValueError, match="boolq has no metric 'acc_norm'; it has acc"):
        run_tasks(*stories, ["boolq:acc_norm"], data=written(tmp_path, ["boolq"]))


def test_the_mean_is_over_tasks_with_one_accuracy_each_and_its_error_that_of_independent_ones():
    def row(*scores):
        values = {f"task{i}": {"acc": {"value": v, "stderr": e}} for i, (v, e) in enumerate(scores)}
        return {"tasks": {"limit": None, "values": values}}

    models = {"dense": row((0.5, 0.03), (0.7, 0.04)), "pruned": row((0.4, 0.0), (0.5, 0.0))}
    (mean,) = [figure for figure in figures(models) if figure.name == "mean of 2 tasks"]
    assert mean.values == pytest.approx({"dense": 0.6, "pruned": 0.45})
    assert mean.errors["dense"] == pytest.approx(0.025)
