"""Submission: the stages of a run as a chain of jobs, each after the one before is complete."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruner.run_folder import RunFolder, write_text
from slurm.attempts import is_done
from slurm.cluster import queued, submit_job, try_job
from slurm.configuration import Arguments, parse_arguments, read_configuration, run_folder_of, slurm_settings
from slurm.folder import JobFolder
from slurm.refusals import check_place, check_time_limit, checkpoint_interval
from slurm.scripts import render
from slurm.settings import STAGES, Site, Slurm, sbatch_options
from slurm.sweeps import TASKS, tasks_of

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class StageJob:
    """What became of one stage: its job, or why there is none; `text` is for people."""

    stage: str
    what: Literal["complete", "attached", "submitted", "tested"]
    job: str
    text: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.text}"


@dataclass(frozen=True, slots=True)
class Run:
    """All that the jobs of a run, or of a sweep, depend on."""

    folder: JobFolder
    slurm: Slurm
    site: Site
    arguments: Arguments
    sweep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What the jobs of a submission are given: the words, and for an array the tasks that are to do."""

    words: tuple[str, ...]
    tasks: tuple[int, ...] | None = None

    @property
    def options(self) -> list[str]:
        """Those of sbatch that make an array of it."""
        return [] if self.tasks is None else [f"--array={','.join(map(str, self.tasks))}"]


def submit(
    words: Sequence[str], sweep: Sequence[str] = (), dry_run: bool = False, project: Path = PROJECT
) -> list[StageJob]:
    """Submit what a run still lacks: prune, then recover, then report.

    A complete stage gets no job, one with a live job is left to it; so submitting again continues a run
    and never doubles one.

    Args:
        words: as `llm-prune fit` takes them: `--config FILE` and overrides.
        sweep: `KEY=VALUE,VALUE,…`: a run for every combination, in folders under `run_dir`.
        dry_run: write nothing; return the scripts, each with what `sbatch --test-only` says to it.
        project: the folder of cli.py; its code is copied into the run folder.

    Raises:
        ValueError: the configuration or SLURM does not allow it, or another submission is under way.
    """
    run = read_run(words, sweep)
    tried = [try_stage(run, stage) for stage in STAGES]
    if dry_run:
        return tried
    with run.folder.locked():
        live = live_jobs(run.folder)
        if sweep and live:
            return [StageJob(stage, "attached", job, f"has job {job} already") for stage, job in live.items()]
        work = submitted_work(run.folder) if live else prepare(run, project)
        jobs = submit_chain(run, work, live)
        return [*jobs, submit_summary(run, jobs[-1].job)] if sweep else jobs


def read_run(words: Sequence[str], sweep: Sequence[str] = ()) -> Run:
    """Everything that the configuration says of a run's jobs; raises ValueError where they could not work."""
    arguments = parse_arguments(words)
    configuration = read_configuration(arguments)
    slurm, site = slurm_settings(configuration)
    root = run_folder_of(configuration, Path.cwd())
    others = tuple(each for each in arguments.overrides if not each.startswith("--run_dir="))
    absolute = Arguments(arguments.configs, (*others, f"--run_dir={root}"))
    check_place(root, site)
    check_time_limit(JobFolder(root), slurm, checkpoint_interval(configuration, RunFolder(root)))
    return Run(JobFolder(root), slurm, site, absolute, tuple(sweep))


def live_jobs(folder: JobFolder) -> dict[str, str]:
    """Stage -> id of its job, for the stages whose job waits or runs."""
    ids = {stage: str(known["job"]) for stage, known in folder.read_ids().items()}
    there = {each.job.partition("_")[0] for each in queued(ids.values()) if each.comment == str(folder.run)}
    return {stage: job for stage, job in ids.items() if job in there}


def prepare(run: Run, project: Path) -> Work:
    """Freeze code and configuration for the jobs to come."""
    frozen = run.folder.write_snapshot(project, run.arguments)
    if not run.sweep:
        return Work(tuple(frozen.positional()))
    tasks = tasks_of(frozen.positional(), run.sweep, run.folder.run)
    write_text(run.folder.root / TASKS, json.dumps(tasks, indent=1))
    to_do = [number for number, task in enumerate(tasks) if not is_complete(task[-1], run.slurm)]
    return Work((str(run.folder.root / TASKS),), tuple(to_do))


def is_complete(place: str, slurm: Slurm) -> bool:
    """Whether the run of a sweep's task (`--run_dir=…`) lacks nothing."""
    return is_done(RunFolder(Path(place.removeprefix("--run_dir="))), STAGES[-1], slurm.export)


def submitted_work(folder: JobFolder) -> Work:
    """That of the jobs that live: a job added to them must not differ."""
    return Work(tuple(next(iter(folder.read_ids().values()))["words"]))


def submit_chain(run: Run, work: Work, live: Mapping[str, str]) -> list[StageJob]:
    """Submit every stage that neither is complete nor has a live job."""
    jobs: list[StageJob] = []
    for stage in STAGES:
        before = jobs[-1].job if jobs else ""
        if work.tasks == () or is_done(RunFolder(run.folder.run), stage, run.slurm.export):
            jobs.append(StageJob(stage, "complete", "", "complete already"))
        elif stage in live:
            jobs.append(StageJob(stage, "attached", live[stage], f"has job {live[stage]} already"))
        else:
            jobs.append(submit_stage(run, stage, work, before))
    return jobs


def submit_stage(run: Run, stage: str, work: Work, before: str) -> StageJob:
    """Write a stage's script and submit it, to start when job `before` has succeeded.

    The tasks of an array wait for their own predecessor, not for all.
    """
    script, after = run.folder.script(stage), "afterok" if work.tasks is None else "aftercorr"
    write_text(script, script_text(run, stage))
    chained = [f"--dependency={after}:{before}", "--kill-on-invalid-dep=yes"] if before else []
    job = submit_job([*work.options, *chained], script, work.words)
    run.folder.write_id(stage, job, work.words)
    log = str(run.folder.log(stage, array=work.tasks is not None)).replace("%j", job).replace("%A", job)
    return StageJob(stage, "submitted", job, f"job {job}{f', after {before}' if before else ''}; log {log}")


def submit_summary(run: Run, before: str) -> StageJob:
    """Submit the report over all runs of a sweep, when their last has ended, however it did."""
    script, root = run.folder.script("sweep"), run.folder.run
    write_text(script, script_text(run, "sweep"))
    chained = [f"--dependency=afterany:{before}"] if before else []
    job = submit_job(chained, script, [str(root)])
    run.folder.write_id("sweep", job, [str(root)])
    return StageJob("sweep", "submitted", job, f"job {job}, after all; report {root / 'report.html'}")


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
    resources = run.slurm.resources("report" if stage == "sweep" else stage)
    array = bool(run.sweep) and stage != "sweep"
    options = [
        *sbatch_options(stage, resources, run.slurm, run.site),
        f"--comment={run.folder.run}",
        f"--output={run.folder.log(stage, array)}",
    ]
    exports = {"LLM_PRUNE_CODE": str(run.folder.code), "LLM_PRUNE_PYTHON": sys.executable}
    return render(stage, options, exports)
