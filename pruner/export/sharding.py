"""Splits a folder's weights into files of limited size, with the index that transformers reads."""

from pathlib import Path

WEIGHTS = "model*.safetensors"


def check_shard_size(size: str) -> None:
    """Raise ValueError unless `size` is a whole number of KB, MB or GB."""
    number, unit = size[:-2].strip(), size[-2:].upper()
    if unit not in ("KB", "MB", "GB") or not number.isdigit() or not int(number):
        raise ValueError(f"max_shard_size is a whole number of KB, MB or GB, such as 5GB; got {size!r}")


def split_weights(folder: Path, max_shard_size: str) -> None:
    """Replace the weights in a model folder by shards, none larger unless one tensor is.

    Args:
        folder: a model folder; what it held of weights is gone afterwards.
        max_shard_size: such as "5GB", in powers of ten.
    """
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    files = sorted(folder.glob(WEIGHTS))
    state = {name: tensor for file in files for name, tensor in load_file(file).items()}
    for file in (*files, folder / "model.safetensors.index.json"):
        file.unlink(missing_ok=True)
    save_torch_state_dict(state, folder, max_shard_size=max_shard_size, metadata={"format": "pt"})
