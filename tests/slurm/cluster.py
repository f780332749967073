"""What tests do to the cluster that `cluster.sh` starts, and what they ask it."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
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
