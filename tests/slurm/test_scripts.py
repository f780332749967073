"""The job scripts as text: nothing that shellcheck objects to, and what srun is given for a container."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from slurm.scripts import FOLDER, render
from slurm.settings import STAGES, Resources, Site, Slurm, sbatch_options

PROJECT = FOLDER.parent
SCRIPTS = [*STAGES, "sweep"]
TEMPLATES = [FOLDER / "job.sh", *(FOLDER / f"{name}.sbatch" for name in SCRIPTS)]


def shellcheck(file: Path) -> str:
    if shutil.which("shellcheck") is None:
        pytest.skip("not installed: shellcheck")
    words = ["shellcheck", "--external-sources", f"--source-path={PROJECT}", file]
    return subprocess.run(words, capture_output=True, text=True).stdout


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_a_template_is_clean_shell(file):
    assert shellcheck(file) == ""


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_rendered_script_is_clean_shell_whatever_its_paths_are(tmp_path, stage):
    options = sbatch_options(stage, Resources(nodes=2, gpus_per_node=8), Slurm(), Site(sbatch=("--qos=a",)))
    script = tmp_path / "script.sbatch"
    script.write_text(render(stage, options, {"LLM_PRUNE_CODE": "/it's a", "LLM_PRUNE_PYTHON": "p"}))
    assert shellcheck(script) == ""
    assert "#SBATCH --gpus-per-node=8\n" in script.read_text()
    assert "#SBATCH --requeue --open-mode=append\n" in script.read_text()
    assert script.read_text().count("--signal=") == 1


@pytest.mark.slurm
def test_every_task_enters_the_sites_container_with_all_that_it_needs_in_sight(cluster, stand_in, tmp_path):
    site = tmp_path / "site.yaml"
    site.write_text(
        "{container: /a b.sqsh, container_mounts: ['/data:/in:ro'], container_python: py, scratch: /s}"
    )
    script = f"""
        srun() {{ printf '%s\\n' "$@"; }}
        code=$LLM_PRUNE_CODE
        source $code/slurm/job.sh
        begin recover {stand_in.config} --slurm.site={site}
        llm_prune recover "${{arguments[@]}}" """
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "LLM_PRUNE_CODE": str(stand_in.project)}
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=os.environ | job, capture_output=True, text=True
    )
    run, code = stand_in.root, stand_in.project
    assert ran.stdout.splitlines()[:8] == [
        "--kill-on-bad-exit=1",
        "--container-image=/a b.sqsh",
        f"--container-mounts={run}:{run},{code}:{code},{tmp_path}:{tmp_path},/s:/s,/data:/in:ro",
        f"--container-workdir={tmp_path}",
        "py",
        f"{code}/cli.py",
        "recover",
        "--config",
    ], ran.stderr
