"""A real SLURM of three nodes on the loopback interface, for as long as the tests run."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from slurm.submission import StageJob, submit

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
NEEDED = ("sbatch", "slurmctld", "slurmd", "munged", "unshare")
LIVE = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING", "PREEMPTED")


@dataclass(frozen=True)
class Cluster:
    """The cluster's folder, and what a test does to it."""

    folder: Path
    spoilt: set[str] = field(default_factory=set)

    def do(self, what: str, node: str = "") -> None:
        """kill-node, freeze-node or start-node, as power cuts and pulled cables do."""
        script = HERE / "cluster.sh"
        subprocess.run(["bash", script, what, self.folder, node], check=True, capture_output=True)
        if what == "freeze-node":
            self.spoilt.add(node)

    def hide(self, node: str, folder: Path) -> None:
        """Lay an empty file system over `folder`, in the sight of that node alone, until it starts anew."""
        outer = (self.folder / "run" / f"{node}.pid").read_text().strip()
        inner = subprocess.run(["pgrep", "-P", outer], capture_output=True, text=True).stdout.split()[0]
        cover = ["mount", "-t", "tmpfs", "none", str(folder)]
        subprocess.run(["nsenter", f"--target={inner}", "--mount", *cover], check=True)
        self.spoilt.add(node)

    def control(self, *words: str) -> None:
        subprocess.run(["scontrol", *words], check=True, capture_output=True)

    def heal(self) -> None:
        """Every node up and idle, nothing in the queue."""
        subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
        self.control("update", "PartitionName=main", "GraceTime=20")
        while self.spoilt:
            self.do("kill-node", self.spoilt.pop())
        for node in ("node1", "node2", "node3"):
            if not self.alive(node):
                before = self.registered(node)
                self.do("start-node", node)
                self.until(lambda: self.registered(node) != before, f"{node} is back")  # noqa: B023
        said = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
        self.until(
            lambda: subprocess.run(said, capture_output=True, text=True).stdout.split() == ["idle"] * 3,
            "all nodes idle",
        )

    def count_jobs(self) -> int:
        """How many wait or run."""
        said = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout
        return len(said.splitlines())

    def registered(self, node: str) -> str:
        """When the node's daemon that the controller knows of was started."""
        told = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True).stdout
        return re.findall(r"SlurmdStartTime=(\S+)", told)[0]

    def alive(self, node: str) -> bool:
        state = Path("/proc", (self.folder / "run" / f"{node}.pid").read_text().strip(), "status")
        return state.exists() and not re.search(r"State:\s+[ZX]", state.read_text())

    def field(self, job: str, name: str) -> str:
        said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=True)
        found = re.search(rf"\b{name}=(\S*)", said.stdout)
        return found[1] if found else ""

    def wait(self, job: str, timeout: float = 120) -> str:
        """The state in which the job ends."""
        self.until(lambda: self.field(job, "JobState") not in LIVE, f"job {job} ends", timeout)
        return self.field(job, "JobState")

    def until(self, condition: Callable[[], object], what: str, timeout: float = 60) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not in {timeout} s: {what}"
            time.sleep(0.2)

    def preempt(self, seconds: float) -> None:
        """A job of more importance takes all nodes for so long."""
        words = ["sbatch", "--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null"]
        subprocess.run([*words, f"--wrap=sleep {seconds}"], check=True, capture_output=True)

    def other_node(self, job: str) -> str:
        """A node of the job that does not run its script."""
        words = ["scontrol", "show", "hostnames", self.field(job, "NodeList")]
        names = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        return next(name for name in names if name != self.field(job, "BatchHost"))

    def signal(self, job: str, name: str, *, batch: bool = False) -> None:
        subprocess.run(["scancel", f"--signal={name}", *(["--batch"] if batch else []), job], check=True)

    def tasks(self, word: str) -> list[int]:
        """Process ids, seen from the host, of the tasks whose command line holds `word`."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().decode().split("\0")
            except OSError:
                continue
            if any(word in part for part in line) and any(part.endswith("cli.py") for part in line[:3]):
                found.append(int(path.parent.name))
        return found


@dataclass(frozen=True)
class StandIn:
    """A run of the stand-in stage, and what it has left."""

    root: Path
    config: Path
    project: Path

    def submit(self, *overrides: str, **options: bool) -> dict[str, StageJob]:
        jobs = submit([f"--config={self.config}", *overrides], project=self.project, **options)
        return {job.stage: job for job in jobs}

    @property
    def trace(self) -> list[str]:
        """What was done, in order: steps, then the later stages."""
        file = self.root / "trace"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def steps(self) -> list[int]:
        return [int(line) for line in self.trace if line.isdigit()]

    def log(self, stage: str) -> str:
        return "".join(file.read_text() for file in (self.root / "jobs").glob(f"{stage}-*.log"))


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster, whole."""
    running_cluster.heal()
    return running_cluster


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=search) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: apt install slurm-wlm munge)")
    spaces = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    tried = ["unshare", *spaces, "--pid", "--fork", "--mount", "--uts", "true"]
    if refused := subprocess.run(tried, capture_output=True, text=True).stderr.strip():
        pytest.skip(f"the nodes need namespaces of their own, which this user may not make: {refused}")
    folder = tmp_path_factory.mktemp("slurm")
    script = HERE / "cluster.sh"
    subprocess.run(["bash", script, "start", folder, "3"], check=True, capture_output=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield Cluster(folder)
    finally:
        subprocess.run(["bash", script, "stop", folder], check=False, capture_output=True)
        del os.environ["SLURM_CONF"]


@pytest.fixture(scope="session")
def stand_in_at() -> Callable[[Path], StandIn]:
    """Makes a run of the stand-in in a folder."""
    return make_stand_in


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A run of the stand-in, not submitted yet."""
    return make_stand_in(tmp_path)


def make_stand_in(folder: Path) -> StandIn:
    """A project whose stages are stood in for, and a configuration that takes two nodes for the recovery."""
    project = folder / "project"
    (project / "pruner").mkdir(parents=True)
    (project / "lit_modules").mkdir()
    shutil.copy(HERE / "stand_in.py", project / "cli.py")
    shutil.copy(PROJECT / "pruner" / "__init__.py", project / "pruner")
    shutil.copy(PROJECT / "pruner" / "run_folder.py", project / "pruner")
    shutil.copytree(PROJECT / "slurm", project / "slurm")
    one = {"cpus_per_task": 1, "memory": "100M", "time": "5:00"}
    slurm = {"prune": one, "recover": {**one, "nodes": 2}, "report": one, "preflight": False}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), "slurm": slurm}))
    return StandIn(folder / "run", config, project)
