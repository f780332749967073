"""What every node must have before the work begins; a node that lacks it is named, and the job stops."""

import argparse
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

MEETING_SECONDS = 120


def main(words: Sequence[str]) -> int:
    """Check this node from its first task, then all nodes together; exit status 1 where something lacks."""
    parser = argparse.ArgumentParser(prog="preflight")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--free_disk_gb", type=float, default=0.0)
    parser.add_argument("--free_gpu_memory", type=float, default=0.0)
    parser.add_argument("--scratch", type=Path)
    args = parser.parse_args(words)
    env, node = os.environ, socket.gethostname()
    lacks = list(folder_lacks(args.run_dir, args.free_disk_gb))
    if args.scratch:
        lacks += folder_lacks(args.scratch, args.free_disk_gb)
    if int(env.get("SLURM_LOCALID", 0)) == 0:
        lacks += gpu_lacks(int(env.get("SLURM_GPUS_ON_NODE") or 0), args.free_gpu_memory)
    if not lacks:
        lacks += connection_lacks(env)
    for lack in lacks:
        log.error("preflight: %s: %s", node, lack)
    return 1 if lacks else 0


def folder_lacks(folder: Path, free_gb: float) -> Iterator[str]:
    """Yield what is wrong with a folder: not visible, not writable, full."""
    probe = folder / f".preflight-{socket.gethostname()}-{os.getpid()}"
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        yield f"cannot write to {folder} ({error.strerror}); it must be there on every node"
        return
    free = shutil.disk_usage(folder).free / 1e9
    if free < free_gb:
        yield f"{free:.1f} GB are free under {folder}, {free_gb} are needed (site: free_disk_gb)"


def gpu_lacks(expected: int, free_share: float) -> Iterator[str]:
    """Yield what is wrong with the GPUs: fewer than SLURM gave, or their memory in use by others."""
    if not expected:
        return
    import torch

    found = torch.cuda.device_count()
    if found != expected:
        yield f"SLURM gave {expected} GPUs, torch sees {found}"
    for index in range(found):
        free, total = torch.cuda.mem_get_info(index)
        if free < free_share * total:
            yield f"GPU {index} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free: another process is on it"


def connection_lacks(env: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong between the nodes: who did not come, or a wrong sum over all GPUs."""
    rank, size = int(env.get("SLURM_PROCID", 0)), int(env.get("SLURM_NTASKS", 1))
    if size == 1:
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    patience = timedelta(seconds=MEETING_SECONDS)
    address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
    store = TCPStore(address, port, size, rank == 0, timeout=patience, wait_for_workers=False)
    store.set(f"came/{rank}", socket.gethostname())
    if missing := missing_ranks(store, size):
        came = sorted({store.get(f"came/{other}").decode() for other in range(size) if other not in missing})
        yield f"after {MEETING_SECONDS} s ranks {missing} of {size} had not come; there were {came}"
        return
    total, expected = summed_over_ranks(store, rank, size, int(env["SLURM_LOCALID"])), size * (size - 1) / 2
    if total != expected:
        yield f"an all-reduce over {size} ranks gave {total}, expected {expected}"


def missing_ranks(store: Any, size: int) -> list[int]:
    """Those that have not come in time."""
    until = time.monotonic() + MEETING_SECONDS
    while missing := [rank for rank in range(size) if not store.check([f"came/{rank}"])]:
        if time.monotonic() > until:
            return missing
        time.sleep(0.1)
    return []


def summed_over_ranks(store: Any, rank: int, size: int, local_rank: int) -> float:
    """The sum of all rank numbers, by an all-reduce of 4 MB over NCCL, or gloo where there are no GPUs."""
    import torch
    from torch import distributed

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)
    total = torch.full((1 << 20,), float(rank), device=device)
    distributed.all_reduce(total)
    distributed.barrier()
    distributed.destroy_process_group()
    return total[0].item()
