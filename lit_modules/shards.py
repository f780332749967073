"""What a ZeRO engine trains, as safetensors: each rank writes its share, any number of ranks reads them.

DeepSpeed's own checkpoints are pickles that only as many ranks can read as have written them. A shard here
holds the rank's flat fp32 buffers as they are and says which part of which parameter lies where, so a
resume on other ranks, or at another ZeRO stage, copies the parts it needs.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHT = "weight"
PATTERN = "shard-*.safetensors"


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements start … start + numel - 1 of a flattened parameter, at `offset` of the rank's `buffer`."""

    name: str
    start: int
    numel: int
    buffer: int
    offset: int


def shard_file(folder: Path, rank: int) -> Path:
    """Where rank `rank` writes its share."""
    return folder / f"shard-{rank:05d}.safetensors"


def buffers_of(zero: Any) -> list[Tensor]:
    """A ZeRO optimizer's flat fp32 weights on this rank, each (its own number of elements,)."""
    stage_3 = hasattr(zero, "fp32_partitioned_groups_flat")
    return list(zero.fp32_partitioned_groups_flat if stage_3 else zero.single_partition_of_fp32_groups)


def pieces_of(module: nn.Module, zero: Any, rank: int) -> Iterator[Piece]:
    """Yield what this rank keeps of every trained parameter, named as in `module`."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            stage_3 = hasattr(parameter, "ds_id")
            piece = parted(name, parameter, zero, rank) if stage_3 else flattened(name, parameter)
            if piece is not None:
                yield piece


def parted(name: str, parameter: Any, zero: Any, rank: int) -> Piece | None:
    """Under ZeRO-3 every rank has an equal share of every parameter, the last one padded."""
    buffer, offset, share = zero.grad_position[zero.get_param_id(parameter)]
    numel = min(share, parameter.ds_numel - rank * share)
    return Piece(name, rank * share, numel, buffer, offset) if numel > 0 else None


def flattened(name: str, parameter: Any) -> Piece | None:
    """Under ZeRO-1 and 2 all parameters lie end to end, cut into equal shares wherever that falls."""
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Piece(name, here.start, here.numel, mapping.param_group_index, there.start)


def write_shard(folder: Path, module: nn.Module, zero: Any, rank: int) -> None:
    """Write this rank's weights and optimizer state.

    Args:
        folder: takes the file.
        module: the engine's module.
        zero: the engine's optimizer, of ZeRO stage 1, 2 or 3.
        rank: this process's.
    """
    tensors: dict[str, Tensor] = {}
    for number, flat in enumerate(buffers_of(zero)):
        tensors[f"{WEIGHT}/{number}"] = flat.detach()
        for key, value in zero.optimizer.state.get(flat, {}).items():
            tensors[f"{key}/{number}"] = value
    index = json.dumps([asdict(piece) for piece in pieces_of(module, zero, rank)])
    save_file(tensors, shard_file(folder, rank), metadata={"pieces": index})


def read_shards(folder: Path, module: nn.Module, zero: Any, rank: int) -> None:
    """Set this rank's weights and optimizer state to what lies in `folder`, whoever wrote it.

    Raises:
        ValueError: the shards do not hold a trained parameter, or not all of it.
    """
    with Shards(folder) as shards:
        flats = buffers_of(zero)
        for flat in flats:
            zero.optimizer.state[flat] = shards.empty_state(flat)
        for piece in pieces_of(module, zero, rank):
            flat = flats[piece.buffer]
            shards.copy(WEIGHT, piece, flat.data)
            for key, value in zero.optimizer.state[flat].items():
                if value.shape == flat.shape:
                    shards.copy(key, piece, value)
    refresh_model(zero)


def read_whole(folder: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Put trained weights together from the shares of all ranks, on one, without DeepSpeed.

    Args:
        folder: a checkpoint.
        shapes: name -> shape of all that was trained.

    Returns:
        Name -> (*shape) fp32.

    Raises:
        ValueError: the shards do not hold all of it.
    """
    weights = {}
    with Shards(folder) as shards:
        for name, shape in shapes.items():
            whole = torch.empty(math.prod(shape))
            shards.copy(WEIGHT, Piece(name, 0, whole.numel(), 0, 0), whole)
            weights[name] = whole.view(*shape)
    return weights


def refresh_model(zero: Any) -> None:
    """Bring the parameters that the model computes with up to the optimizer's fp32 weights."""
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        zero.update_lp_params()
        return
    zero._partition_all_parameters()
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    if zero.persistent_parameters:
        zero.persistent_parameters[0].all_gather(zero.persistent_parameters)


class Shards:
    """All shards of one checkpoint, opened together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Any] = [safe_open(file, framework="pt") for file in sorted(folder.glob(PATTERN))]
        if not self.files:
            raise ValueError(f"{folder} holds no {PATTERN}: it was not written under DeepSpeed")
        self.pieces: dict[str, list[tuple[Any, Piece]]] = {}
        for file in self.files:
            for each in json.loads(file.metadata()["pieces"]):
                self.pieces.setdefault(each["name"], []).append((file, Piece(**each)))

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.files.clear()
        self.pieces.clear()

    def empty_state(self, flat: Tensor) -> dict[str, Tensor]:
        """Optimizer state for a buffer: zeros where it has an entry per element, else the saved scalar."""
        keys = {key.partition("/")[0] for key in self.files[0].keys()} - {WEIGHT}  # noqa: SIM118
        saved = {key: self.files[0].get_slice(f"{key}/0") for key in sorted(keys)}
        return {
            key: torch.zeros_like(flat.data) if value.get_shape() else self.files[0].get_tensor(f"{key}/0")
            for key, value in saved.items()
        }

    def copy(self, key: str, wanted: Piece, out: Tensor) -> None:
        """Copy `wanted` of entry `key` to its place in the buffer `out`, from whichever shards have it."""
        missing = wanted.numel
        for file, piece in self.pieces.get(wanted.name, ()):
            first = max(wanted.start, piece.start)
            end = min(wanted.start + wanted.numel, piece.start + piece.numel)
            if first >= end:
                continue
            there = file.get_slice(f"{key}/{piece.buffer}")
            at = piece.offset + first - piece.start
            to = wanted.offset + first - wanted.start
            out[to : to + end - first].copy_(there[at : at + end - first])
            missing -= end - first
        if missing:
            raise ValueError(
                f"{self.folder} lacks {missing} of {wanted.numel} elements of {wanted.name} ({key})"
            )
