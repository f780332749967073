from pathlib import Path

import lm_eval
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruner.evaluation.harness import check_tasks, run_tasks
from tests.real_data import DATA

SEVEN = ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]
OVERLAY = """
include: {stock}/tasks/arc/arc_easy.yaml
task: arc_easy_local
tag: null
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {file}}}}}
training_split: null
validation_split: null
test_split: test
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    file = DATA / "tasks" / "arc_easy" / "test.jsonl"
    if not file.exists():
        pytest.skip(f"needs {file}")
    folder = tmp_path_factory.mktemp("tasks")
    stock = Path(lm_eval.__file__).parent
    (folder / "arc_easy_local.yaml").write_text(OVERLAY.format(stock=stock, file=file))
    return folder


def test_an_overlay_scores_local_data_with_a_standard_error(folder):
    model = AutoModelForCausalLM.from_pretrained(DATA / "stories260K").eval()
    tokenizer = AutoTokenizer.from_pretrained(DATA / "stories260K")
    results = run_tasks(model, tokenizer, ["arc_easy_local"], folder=folder, limit=8)
    score = results["arc_easy_local"]["acc"]
    assert score.num_items == 8
    assert score.value * 8 == pytest.approx(round(score.value * 8))
    assert score.stderr == pytest.approx((score.value * (1 - score.value) / 7) ** 0.5)
    assert "acc_norm" in results["arc_easy_local"]


def test_only_a_task_that_does_not_exist_is_refused_with_its_nearest_neighbours(folder):
    with pytest.raises(ValueError, match=r"no task 'arc_easy_locale'.*nearest: arc_easy_local"):
        check_tasks([*SEVEN, "arc_easy_locale"], folder)


def test_a_folder_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="none at nowhere"):
        check_tasks(["piqa"], "nowhere")
