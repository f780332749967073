"""The paper's seven tasks from files on this machine, in the fields of their data sets on the hub."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

STOCK = {
    "boolq": ("super_glue/boolq/default.yaml", "validation"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "winogrande": ("winogrande/default.yaml", "validation"),
    "arc_easy": ("arc/arc_easy.yaml", "test"),
    "arc_challenge": ("arc/arc_challenge.yaml", "test"),
    "openbookqa": ("openbookqa/openbookqa.yaml", "test"),
}
"""Task -> its file among lm-eval's, and the split that is scored."""


def files_of(tasks: Sequence[str], data: Path) -> dict[str, Path]:
    """Task -> `data/TASK/SPLIT.jsonl`.

    Raises:
        ValueError: a file is missing, or a task is none of the seven.
    """
    others = [task for task in tasks if task not in STOCK]
    if others:
        raise ValueError(
            f"evaluation.tasks_data serves {', '.join(STOCK)}, not {', '.join(others)}; write a YAML file "
            "into evaluation.tasks_folder for any other"
        )
    files = {task: data / task / f"{STOCK[task][1]}.jsonl" for task in tasks}
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise ValueError(
            f"evaluation.tasks_data lacks {', '.join(missing)}: a line for each item, in the fields of the "
            "task's data set on the hub"
        )
    return files


@contextmanager
def overlaid(tasks: Sequence[str], data: str | Path) -> Iterator[Path]:
    """A folder of task files that take lm-eval's own and read `data` instead of a hub; vanishes after.

    Args:
        tasks: names, of the seven.
        data: folder with TASK/validation.jsonl or TASK/test.jsonl.

    Raises:
        ValueError: as `files_of`.
    """
    import lm_eval

    stock = Path(lm_eval.__file__).parent / "tasks"
    files = files_of(tasks, Path(data))
    with tempfile.TemporaryDirectory() as folder:
        for task, file in files.items():
            path, split = STOCK[task]
            overlay = {
                "include": str(stock / path),
                "task": task,
                "tag": None,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {split: str(file.resolve())}},
                "training_split": None,
                "validation_split": split if split == "validation" else None,
                "test_split": split if split == "test" else None,
            }
            (Path(folder) / f"{task}.yaml").write_text(yaml.safe_dump(overlay))
        yield Path(folder)
