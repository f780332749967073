"""A real SLURM of three nodes on the loopback interface, for as long as the tests run."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from slurm.submission import StageJob, submit
from tests.slurm.cluster import Cluster

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
NEEDED = ("sbatch", "slurmctld", "slurmd", "munged", "unshare")


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


def what_is_missing() -> str:
    """Why no cluster can be started here; nothing if one can."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=search) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt install slurm-wlm munge)"
    spaces = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    tried = ["unshare", *spaces, "--pid", "--fork", "--mount", "--uts", "true"]
    refused = subprocess.run(tried, capture_output=True, text=True).stderr.strip()
    return f"every node needs its own namespaces, which this user may not make: {refused}" if refused else ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once, not for every test, why they were left out."""
    skipped = [each for each in terminalreporter.stats.get("skipped", []) if "tests/slurm/" in each.nodeid]
    for reason, count in Counter(report.longrepr[2] for report in skipped).items():
        terminalreporter.write_line(f"SLURM, {count} tests: {reason}")


@pytest.fixture
def cluster(running_cluster: Cluster) -> Cluster:
    """The cluster, whole."""
    running_cluster.heal()
    return running_cluster


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := what_is_missing():
        pytest.skip(reason)
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
