import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lit_modules.command import RunCommand
from pruner.budget import decoder_parameters
from pruner.discovery import discover
from pruner.groups import count_parameters, shapes_of
from pruner.selection import allocate, prunable
from tests.published import published_config, published_model

CONFIGS = Path(__file__).parents[1] / "configs"
MODELS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem != "uniform")
OVERLAYS = ["uniform", *sorted(f"recipes/{path.stem}" for path in CONFIGS.glob("recipes/*.yaml"))]


@pytest.fixture
def local(tmp_path):
    """Options that point a configuration at this machine: a model folder without weights, a few records."""

    def options(name):
        folder = tmp_path / name
        published_config(name).save_pretrained(folder)
        save_file({}, folder / "model.safetensors")
        rows = tmp_path / "rows.jsonl"
        rows.write_text(json.dumps({"text": "once", "instruction": "Say once.", "output": "once"}) + "\n")
        return [
            f"--run_dir={tmp_path / 'run'}",
            f"--model.model_name_or_path={folder}",
            f"--pruner.calibration.path={rows}",
            f"--data.path={rows}",
            f"--evaluation.texts=[{rows}]",
            "--trainer.accelerator=cpu",
            "--trainer.devices=1",
            "--trainer.num_nodes=1",
        ]

    return options


@pytest.mark.parametrize("name", MODELS)
def test_a_configuration_prunes_its_model_by_what_it_asks(name, local):
    settings = RunCommand([f"--config={CONFIGS / name}.yaml", *local(name)], "fit").config_init.pruner
    with torch.device("meta"):
        model = published_model(name)
    structure, shapes = discover(model), shapes_of(model)
    groups = prunable(structure, settings.kinds, settings.protect_first, settings.protect_last)
    removed = allocate(groups, shapes, structure.layers, settings.budget)
    kept = {group.name: range(removed[group.name], group.num_units) for group in groups}
    saved = count_parameters(shapes, [], {}) - count_parameters(shapes, groups, kept)
    assert saved / decoder_parameters(shapes, structure.layers) == pytest.approx(
        settings.budget.ratio, abs=1e-3
    )


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_composes_with_a_model(name, local):
    files = [f"--config={CONFIGS / 'llama-3.1-8b'}.yaml", f"--config={CONFIGS / name}.yaml"]
    command = RunCommand([*files, *local("llama-3.1-8b")], "fit")
    assert command.config_init.run_dir


def test_the_printed_configuration_runs_again_as_it_is(tmp_path, local, capsys):
    options = [f"--config={CONFIGS / 'demo'}.yaml", *local("demo")]
    with pytest.raises(SystemExit):
        RunCommand([*options, "--print_config"], "fit")
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    again = RunCommand([f"--config={printed}", f"--run_dir={tmp_path / 'run'}"], "fit")
    first = RunCommand(options, "fit")
    assert again.config_init.pruner == first.config_init.pruner
    assert again.run_folder == first.run_folder


def test_the_progress_bar_can_be_turned_off(local):
    options = [f"--config={CONFIGS / 'demo'}.yaml", *local("demo"), "--trainer.enable_progress_bar=false"]
    assert RunCommand(options, "fit").trainer.progress_bar_callback is None
