"""What a job does around its stage: read what it was given, note the attempt, decide what follows."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from pruner.run_folder import RunFolder
from slurm.attempts import (
    SAVED,
    Attempt,
    decide,
    is_done,
    now,
    of_job,
    progress_of,
    read_attempts,
    record,
)
from slurm.cluster import command, holder
from slurm.configuration import Arguments, parse_arguments, read_configuration, run_folder_of, slurm_settings
from slurm.folder import JobFolder
from slurm.settings import Site, Slurm, seconds
from slurm.sweeps import arguments_of_task

log = logging.getLogger(__name__)

CACHES = ("TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR")


def begin(words: Sequence[str]) -> int:
    """Note that an attempt at a stage begins; print, for the job script, what it needs.

    Raises:
        ValueError: the run folder is not there, or another running job has it.
    """
    stage, env = words[0], os.environ
    arguments, run, slurm, site = read(words[1:], env)
    folder = JobFolder(run.root)
    if is_done(run, stage, slurm.export):
        sys.stdout.write(f"echo '{stage}: complete already'; exit 0\n")
        return 0
    take(folder, run, env)
    attempt = Attempt(stage, job_name(env), env.get("SLURM_JOB_NODELIST", ""), now(), progress_of(run))
    record(folder.attempts, attempt)
    sys.stdout.writelines(f"{line}\n" for line in shell_lines(arguments, run, slurm, site, env))
    log.info("%s: attempt on %s, from %s", stage, attempt.nodes, attempt.before)
    return 0


def read(words: Sequence[str], env: Mapping[str, str]) -> tuple[Arguments, RunFolder, Slurm, Site]:
    """What the words of a job script say."""
    arguments = parse_arguments(arguments_of_task(words, env.get("SLURM_ARRAY_TASK_ID")))
    configuration = read_configuration(arguments)
    slurm, site = slurm_settings(configuration)
    return arguments, RunFolder(run_folder_of(configuration, Path.cwd())), slurm, site


def take(folder: JobFolder, run: RunFolder, env: Mapping[str, str]) -> None:
    """Make this job the one that works on the run; raises ValueError if another does."""
    folder.root.mkdir(parents=True, exist_ok=True)
    job = job_name(env)
    other = folder.owner.read_text().strip() if folder.owner.exists() else job
    if other != job and holder(other, run.root):
        raise ValueError(
            f"job {other} is at work on {run.root}; wait for it, or end it: llm-prune cancel {run.root}"
        )
    folder.owner.write_text(job)


def job_name(env: Mapping[str, str]) -> str:
    """The job's id; in an array the array's and the task's number, as the id of one task is the array's."""
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]


def shell_lines(
    arguments: Arguments, run: RunFolder, slurm: Slurm, site: Site, env: Mapping[str, str]
) -> Iterator[str]:
    """Yield the assignments that the job script evaluates."""
    tasks = re.sub(r"\(.*|,.*", "", env.get("SLURM_NTASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "1"))
    shape = [f"--trainer.num_nodes={env.get('SLURM_JOB_NUM_NODES', 1)}", f"--trainer.devices={tasks}"]
    place = [f"--run_dir={run.root}", *shape]
    yield f"run_dir={shlex.quote(str(run.root))}"
    yield f"arguments=({shlex.join([*arguments.words(), *place])})"
    yield f"formats=({shlex.join(slurm.export)})"
    yield f"checks=({shlex.join(checks(slurm, site))})"
    yield f"srun_options=({shlex.join(container_options(run, site, env))})"
    if site.container:
        yield f"task_python={shlex.quote(site.container_python)}"
    for name, value in environment(site, env).items():
        yield f"export {name}={shlex.quote(value)}"
    yield from site.setup


def checks(slurm: Slurm, site: Site) -> list[str]:
    """What every node must have, as the preflight takes it; nothing where it is not wanted."""
    if not slurm.preflight:
        return []
    scratch = [f"--scratch={site.scratch}"] if site.scratch else []
    return [f"--free_disk_gb={site.free_disk_gb}", f"--free_gpu_memory={site.free_gpu_memory}", *scratch]


def environment(site: Site, env: Mapping[str, str]) -> dict[str, str]:
    """The site's variables, caches on the node's own disk, and where the processes meet.

    The first node is the meeting place; the port follows from the job's id, as two jobs can share a node.
    """
    variables = {name: str(value) for name, value in site.environment.items()}
    if site.scratch:
        own = Path(site.scratch) / f"llm-prune-{env['SLURM_JOB_ID']}"
        variables = {name: str(own / name.lower()) for name in CACHES} | variables
    variables["MASTER_ADDR"] = command("scontrol", "show", "hostnames", env["SLURM_JOB_NODELIST"]).split()[0]
    variables["MASTER_PORT"] = str(20000 + int(env["SLURM_JOB_ID"]) % 10000)
    return variables


def container_options(run: RunFolder, site: Site, env: Mapping[str, str]) -> list[str]:
    """How srun enters the site's container (pyxis); nothing if there is none."""
    if not site.container:
        return []
    here = str(Path.cwd())
    own = [site.scratch] if site.scratch else []
    places = [str(run.root), env.get("LLM_PRUNE_CODE", here), here, *own, *site.container_mounts]
    mounts = ",".join(place if ":" in place else f"{place}:{place}" for place in dict.fromkeys(places))
    options = {"image": site.container, "mounts": mounts, "workdir": here}
    return [f"--container-{name}={value}" for name, value in options.items()]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why SLURM ends a job: to make room for another, because its time is over, because it was told to."""

    preempted: bool = False
    at_limit: bool = False
    cancelled: bool = False


def end(words: Sequence[str]) -> int:
    """Note how an attempt ended and decide: exit status 0 complete, 85 again, 1 given up.

    Args:
        words: the exit status, what it was of, then those of `begin`.
    """
    status, part, stage, env = int(words[0]), words[1], words[2], os.environ
    _, run, slurm, _ = read(words[3:], env)
    folder = JobFolder(run.root)
    *before, last = of_job(read_attempts(folder.attempts), job_name(env), stage)
    why = ask_why(job_name(env))
    last = replace(last, after=progress_of(run), end_seconds=now(), status=status, **asdict(why))
    outcome, how = decide([*before, last], is_done(run, stage, slurm.export), slurm.max_restarts)
    record(folder.attempts, replace(last, why=f"{outcome}: {part}: {how}"))
    log.info("%s: %s (%s: %s), now %s", stage, outcome, part, how, last.after)
    if outcome == "done" and why.at_limit:
        return SAVED  # SLURM calls a job that outran its limit TIMEOUT; the next attempt ends at once, well
    return {"done": 0, "requeue": SAVED, "failed": 1}[outcome]


def ask_why(job: str) -> Cause:
    """Why SLURM ends the job, if it does; nothing where no controller answers."""
    try:
        return cause(command("scontrol", "show", "job", job), datetime.now())
    except ValueError:
        return Cause()


def cause(told: str, now: datetime) -> Cause:
    """What `scontrol show job` says of a job's end. A cancelled job is told by elimination: it completes."""
    fields = dict(re.findall(r"\b(\w+)=(\S+)", told))
    preempted = fields["PreemptTime"][0].isdigit()
    at_limit = fields["Reason"] == "TimeLimit" or reached_limit(fields, now)
    cancelled = fields["JobState"] in ("CANCELLED", "COMPLETING") and not (preempted or at_limit)
    return Cause(preempted, at_limit, cancelled)


def reached_limit(fields: Mapping[str, str], now: datetime) -> bool:
    """Whether a job's whole time is over; the end of one that is cancelled has passed too, but came early."""
    if not fields["TimeLimit"][0].isdigit():
        return False
    start, end = (datetime.fromisoformat(fields[name]) for name in ("StartTime", "EndTime"))
    return now >= end >= start + timedelta(seconds=seconds(fields["TimeLimit"]))
