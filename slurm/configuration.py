"""What the configuration files and the overrides of a command say, before anything heavy is imported."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slurm.settings import Site, Slurm, from_mapping, read_site

OWN_SITE = Path(__file__).with_name("site.yaml")


@dataclass(frozen=True, slots=True)
class Arguments:
    """Of a run: its configuration files in order, then what overrides them (`--key=value`)."""

    configs: tuple[Path, ...]
    overrides: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """As `llm-prune` takes them."""
        return [word for config in self.configs for word in ("--config", str(config))] + list(self.overrides)

    def positional(self) -> list[str]:
        """As the sbatch scripts take them."""
        return [*map(str, self.configs), *self.overrides]


def parse_arguments(words: Sequence[str]) -> Arguments:
    """Read configuration files, with or without `--config`, and overrides, with or without `=`.

    Raises:
        ValueError: a file is missing, or a word stands alone.
    """
    configs, overrides, left = [], [], list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            configs.append(Path(word))
            continue
        name, equals, value = word.partition("=")
        if not equals:
            if not left:
                raise ValueError(f"{name} needs a value: {name}=VALUE")
            value = left.pop(0)
        if name == "--config":
            configs.append(Path(value))
        else:
            overrides.append(f"{name}={value}")
    for config in configs:
        if not config.is_file():
            raise ValueError(f"no configuration file {config} (looked from {Path.cwd()})")
    return Arguments(tuple(configs), tuple(overrides))


def read_configuration(arguments: Arguments) -> dict[str, Any]:
    """The files merged in order, then the overrides; not validated, that is the run's own parser's work."""
    merged: dict[str, Any] = {}
    for config in arguments.configs:
        merge(merged, yaml.safe_load(config.read_text()) or {})
    for override in arguments.overrides:
        name, _, value = override.removeprefix("--").partition("=")
        merge(merged, nested(name.split("."), yaml.safe_load(value)))
    return merged


def merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Lay `values` over `into`, section by section."""
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value


def nested(path: Iterable[str], value: Any) -> dict[str, Any]:
    """`value` under the names of `path`."""
    for name in reversed(list(path)):
        value = {name: value}
    return dict(value)


def run_folder_of(configuration: Mapping[str, Any], base: Path) -> Path:
    """The absolute `run_dir`, relative ones from `base`; raises ValueError if there is none."""
    run_dir = configuration.get("run_dir")
    if not run_dir:
        raise ValueError("no run_dir: write it into the configuration, or pass --run_dir=runs/NAME")
    return base.resolve() / Path(run_dir).expanduser()


def slurm_settings(configuration: Mapping[str, Any]) -> tuple[Slurm, Site]:
    """The `slurm:` section, and the site file that it names."""
    slurm = from_mapping(Slurm, configuration.get("slurm"), "slurm")
    path = Path(slurm.site).expanduser() if slurm.site else OWN_SITE
    if not path.is_file():
        raise ValueError(f"slurm.site: no file {path} (looked from {Path.cwd()})")
    return slurm, read_site(path)
