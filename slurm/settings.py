"""What a run asks of SLURM, and what a site adds to it: the values behind the sbatch options."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

T = TypeVar("T")

STAGES = ("prune", "recover", "report")
START_SECONDS = 60
"""SLURM may send the signal this much early; nothing is gained by a job that ends before it."""


@dataclass(frozen=True)
class Resources:
    """Of one stage's job.

    Args:
        nodes: how many.
        gpus_per_node: on each node; there is one process for each of them.
        tasks_per_node: processes on each node, where there are no GPUs.
        cpus_per_task: CPU cores of each process.
        memory: of each node, as sbatch writes it (64G); null leaves it to the partition.
        time: the limit of one attempt, as sbatch writes it (minutes, H:MM:SS or D-HH:MM:SS).
        partition: null leaves it to the site file.
        account: null leaves it to the site file.
        constraint: features that the nodes must have; null leaves it to the site file.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int = 1
    cpus_per_task: int = 4
    memory: str | None = None
    time: str = "4:00:00"
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None

    def __post_init__(self) -> None:
        for name, least in {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"slurm: {name} must be at least {least}, got {getattr(self, name)}")
        if not isinstance(self.time, str):
            raise ValueError(f"slurm: quote the time limit ('4:00:00'); YAML read the number {self.time}")
        if self.gpus_per_node and self.tasks_per_node not in (1, self.gpus_per_node):
            raise ValueError(
                f"slurm: one process drives one GPU; got tasks_per_node {self.tasks_per_node} with "
                f"gpus_per_node {self.gpus_per_node}. Leave tasks_per_node out."
            )

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.gpus_per_node or self.tasks_per_node


@dataclass(frozen=True)
class Slurm:
    """The `slurm:` section of a configuration.

    Args:
        prune: resources of the pruning job.
        recover: resources of the recovery.
        report: resources of the evaluation and the exports.
        export: formats that the report job writes into export/ (padded, gguf, hf).
        site: the file that says what is particular to the cluster; null for the one beside the templates.
        signal_seconds: how long before the time limit a job is told to save and leave.
        max_restarts: so often a job may start again, for whatever reason.
        preflight: check every node before the work: run folder, GPUs, memory, disk, all-reduce.
    """

    prune: Resources = field(default_factory=Resources)
    recover: Resources = field(default_factory=Resources)
    report: Resources = field(default_factory=Resources)
    export: tuple[str, ...] = ()
    site: str | None = None
    signal_seconds: int = 90
    max_restarts: int = 50
    preflight: bool = True

    def __post_init__(self) -> None:
        needed = self.signal_seconds + START_SECONDS
        for stage in STAGES:
            limit = self.resources(stage).time
            if seconds(limit) <= needed:
                raise ValueError(
                    f"slurm.{stage}.time {limit} leaves no time to work: the job is told to save "
                    f"{self.signal_seconds} s before the limit, up to {START_SECONDS} s early. "
                    f"Give it more than {needed} s, or lower slurm.signal_seconds"
                )

    def resources(self, stage: str) -> Resources:
        """Those of one of `STAGES`."""
        value: Resources = getattr(self, stage)
        return value


@dataclass(frozen=True)
class Site:
    """What is particular to a cluster, whatever runs there.

    Args:
        partition: the default.
        account: the default.
        constraint: the default.
        sbatch: further options, as sbatch writes them (--qos=high).
        environment: variables of every process (NCCL_SOCKET_IFNAME: ib0).
        setup: shell lines before everything else (module load cuda).
        scratch: a folder on each node's own disk, for caches; null leaves them where they are.
        container: image for enroot/pyxis; null runs without.
        container_mounts: what it sees besides the run folder, the code, the scratch and the folder of
            submission.
        container_python: the interpreter inside the container.
        free_disk_gb: at least this much must be free under the run folder and the scratch.
        free_gpu_memory: at least this share of every GPU's memory.
    """

    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    sbatch: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    scratch: str | None = None
    container: str | None = None
    container_mounts: tuple[str, ...] = ()
    container_python: str = "python3"
    free_disk_gb: float = 1.0
    free_gpu_memory: float = 0.9


def from_mapping(kind: type[T], given: Mapping[str, Any] | None, at: str) -> T:
    """Build a settings dataclass from what YAML says; raises ValueError for a name it does not know."""
    hints, allowed = get_type_hints(kind), [each.name for each in fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in (given or {}).items():
        if name not in allowed:
            raise ValueError(f"{at} has no {name!r}; it has {', '.join(allowed)}")
        if is_dataclass(hints[name]):
            value = from_mapping(hints[name], value, f"{at}.{name}")  # type: ignore[arg-type]
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def read_site(path: Path) -> Site:
    """The site file; raises ValueError where it says what no site has."""
    return from_mapping(Site, yaml.safe_load(path.read_text()), str(path))


def seconds(time: str) -> int:
    """The length of a time limit as sbatch writes it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", time):
        raise ValueError(f"slurm: time is minutes, H:MM:SS or D-HH:MM:SS, got {time!r}")
    days, _, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days or len(parts) == 3:
        hours, minutes, left = (*parts, 0, 0)[:3]
    else:
        hours, (minutes, left) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + left


def sbatch_options(stage: str, resources: Resources, slurm: Slurm, site: Site) -> Iterator[str]:
    """Yield the options of a stage's job, as sbatch writes them."""
    yield f"--job-name={stage}"
    for name in ("partition", "account", "constraint"):
        if value := getattr(resources, name) or getattr(site, name):
            yield f"--{name}={value}"
    yield f"--nodes={resources.nodes}"
    yield f"--ntasks-per-node={resources.tasks}"
    if resources.gpus_per_node:
        yield f"--gpus-per-node={resources.gpus_per_node}"
    yield f"--cpus-per-task={resources.cpus_per_task}"
    if resources.memory:
        yield f"--mem={resources.memory}"
    yield f"--time={resources.time}"
    yield f"--signal=SIGUSR1@{slurm.signal_seconds}"
    yield from site.sbatch
