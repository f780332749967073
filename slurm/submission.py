"""Submission: the stages of a run as a chain of jobs, each after the one before is complete."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pruner.run_folder import RunFolder, write_text
from slurm.attempts import is_done
from slurm.cluster import queued, submit_job, try_job
from slurm.configuration import Arguments, parse_arguments, read_configuration, run_folder_of, slurm_settings
from slurm.folder import JobFolder
from slurm.scripts import render
from slurm.settings import STAGES, Site, Slurm, sbatch_options

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class StageJob:
    """What became of one stage: its job, or why there is none; `text` is for people."""

    stage: str
    what: Literal["complete", "attached", "submitted", "tested"]
    job: str
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """All that the scripts of one run depend on."""

    folder: JobFolder
    slurm: Slurm
    site: Site
    arguments: Arguments
    """absolute, `run_dir` and configuration files included"""


def submit(words: Sequence[str], dry_run: bool = False, project: Path = PROJECT) -> list[StageJob]:
    """Submit what a run still lacks: prune, then recover, then report.

    A complete stage gets no job, one with a live job is left to it; so submitting again continues a run
    and never doubles one.

    Args:
        words: as `llm-prune fit` takes them: `--config FILE` and overrides.
        dry_run: write nothing; return the scripts, each with what `sbatch --test-only` says to it.
        project: the folder of cli.py; its code is copied into the run folder.

    Raises:
        ValueError: the configuration or SLURM does not allow it, or another submission is under way.
    """
    run = read_run(words)
    if dry_run:
        return [try_stage(run, stage) for stage in STAGES]
    with run.folder.locked():
        return submit_chain(run, project)


def read_run(words: Sequence[str]) -> Run:
    """Everything that the configuration says of a run's jobs."""
    arguments = parse_arguments(words)
    configuration = read_configuration(arguments)
    slurm, site = slurm_settings(configuration)
    root = run_folder_of(configuration, Path.cwd())
    return Run(JobFolder(root), slurm, site, at_run_folder(arguments, root))


def at_run_folder(arguments: Arguments, root: Path) -> Arguments:
    """The same arguments with an absolute `run_dir`."""
    others = tuple(each for each in arguments.overrides if not each.startswith("--run_dir="))
    return Arguments(arguments.configs, (*others, f"--run_dir={root}"))


def submit_chain(run: Run, project: Path) -> list[StageJob]:
    """Submit every stage that neither is complete nor has a live job."""
    live = live_jobs(run.folder)
    arguments = snapshot(run, project) if not live else submitted_arguments(run.folder)
    jobs: list[StageJob] = []
    for stage in STAGES:
        before = jobs[-1].job if jobs else ""
        if is_done(RunFolder(run.folder.run), stage, run.slurm.export):
            jobs.append(StageJob(stage, "complete", "", "complete already"))
        elif stage in live:
            jobs.append(StageJob(stage, "attached", live[stage], f"has job {live[stage]} already"))
        else:
            jobs.append(submit_stage(run, stage, arguments, before))
    return jobs


def live_jobs(folder: JobFolder) -> dict[str, str]:
    """Stage -> id of its job, for the stages whose job waits or runs."""
    ids = {stage: str(known["job"]) for stage, known in folder.read_ids().items()}
    there = {each.job.partition("_")[0] for each in queued(ids.values()) if each.comment == str(folder.run)}
    return {stage: job for stage, job in ids.items() if job in there}


def snapshot(run: Run, project: Path) -> Arguments:
    """Freeze code and configuration for the jobs to come."""
    return run.folder.write_snapshot(project, run.arguments)


def submitted_arguments(folder: JobFolder) -> Arguments:
    """Those of the jobs that live: a job added to them must not differ."""
    known: Mapping[str, Any] = next(iter(folder.read_ids().values()))
    return parse_arguments(known["command"])


def submit_stage(run: Run, stage: str, arguments: Arguments, before: str) -> StageJob:
    """Write a stage's script and submit it, to start when job `before` has succeeded."""
    script, words = run.folder.script(stage), arguments.positional()
    write_text(script, script_text(run, stage))
    chained = [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"] if before else []
    job = submit_job(chained, script, words)
    run.folder.write_id(stage, job, words)
    after, log = f", after {before}" if before else "", str(run.folder.log(stage)).replace("%j", job)
    return StageJob(stage, "submitted", job, f"job {job}{after}; log {log}")


def try_stage(run: Run, stage: str) -> StageJob:
    """A stage's script and SLURM's word on it."""
    text = script_text(run, stage)
    with tempfile.NamedTemporaryFile("w", suffix=f".{stage}.sbatch") as file:
        file.write(text)
        file.flush()
        said = try_job(Path(file.name), run.arguments.positional())
    return StageJob(stage, "tested", "", f"{text}\n{said}")


def script_text(run: Run, stage: str) -> str:
    """A stage's job script."""
    options = [
        *sbatch_options(stage, run.slurm.resources(stage), run.slurm, run.site),
        f"--comment={run.folder.run}",
        f"--output={run.folder.log(stage)}",
    ]
    exports = {"LLM_PRUNE_CODE": str(run.folder.code), "LLM_PRUNE_PYTHON": sys.executable}
    return render(stage, options, exports)
