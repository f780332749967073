"""The decision as a value: which units survive and why, in JSON, checked against a model before use."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pruner.groups import Group, Shapes
from pruner.run_folder import write_text

FORMAT = 1


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One group's share of a plan.

    Attributes:
        kind, layer, num_units: as in `pruner.groups.Group`; they name the group for a reader and are
            compared with the model's own before anything is cut.
        kept: surviving units, ascending.
        scores: one importance per unit, None where nothing was scored.
    """

    kind: str
    layer: int | None
    num_units: int
    kept: tuple[int, ...]
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """Which units of every group survive; with the dense model it determines the pruned one.

    Attributes:
        model: {"architecture", "fingerprint", "decoder_parameters", "parameters", "num_layers"} of the
            dense model.
        groups: group name -> its share; groups that lose nothing may be left out.
        criterion: how units were scored.
        budget: what was asked and what is reached, e.g. {"ratio": .2, "reached_ratio": .2001}; "macs" or
            "latency", for each token (of latency in seconds), where a target is measured.
        calibration: source, number, length, seed and fingerprint of the text, {} for none.
        compensation: the update that follows removal and its settings, {} for none.
    """

    model: Mapping[str, Any]
    groups: Mapping[str, GroupPlan]
    criterion: str
    budget: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    compensation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Group name -> surviving units."""
        return {name: share.kept for name, share in self.groups.items()}

    @property
    def num_layers(self) -> int:
        """Decoder layers of the dense model, of which `groups` may leave out those that lose nothing."""
        named = [share.layer + 1 for share in self.groups.values() if share.layer is not None]
        whole = [share.num_units for share in self.groups.values() if share.kind == "layer"]
        return max([int(self.model.get("num_layers", 0)), *named, *whole])

    @property
    def dropped(self) -> tuple[int, ...]:
        """Numbers of the decoder layers that go whole."""
        layers = [share for share in self.groups.values() if share.kind == "layer"]
        return tuple(unit for share in layers for unit in range(share.num_units) if unit not in share.kept)

    @property
    def narrows(self) -> bool:
        """Whether a layer that stays loses units; without that there is nothing to refit."""
        return any(
            share.kind != "layer" and len(share.kept) < share.num_units for share in self.groups.values()
        )

    def with_budget(self, reached: Mapping[str, Any]) -> "PruningPlan":
        """The plan with more, or other, of what its budget has reached."""
        return replace(self, budget={**self.budget, **reached})

    def save(self, path: str | Path) -> None:
        """Write JSON to `path`, a line for each group; to the side first, then renamed."""
        fields = {"format": FORMAT, **asdict(self)}
        groups = fields.pop("groups")
        head = json.dumps(fields, indent=1)[:-2]
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(share)}" for name, share in groups.items())
        write_text(Path(path), f'{head},\n "groups": {{\n{rows}\n }}\n}}\n')

    @classmethod
    def load(cls, path: str | Path) -> "PruningPlan":
        """Read a plan; raises ValueError that names the file and what is wrong with it."""
        try:
            raw = json.loads(Path(path).read_text())
            if raw.pop("format") != FORMAT:
                raise ValueError(f"format is not {FORMAT}")
            shares = {
                name: GroupPlan(
                    share["kind"],
                    share["layer"],
                    share["num_units"],
                    tuple(share["kept"]),
                    None if share["scores"] is None else tuple(share["scores"]),
                )
                for name, share in raw.pop("groups").items()
            }
            return cls(groups=shares, **raw)
        except FileNotFoundError:
            raise ValueError(f"no plan at {path}; `llm-prune prune` writes one into its run folder") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a pruning plan: {error!r}") from error

    def check(self, groups: Sequence[Group], fingerprint: str) -> None:
        """Raise ValueError at the first place where this plan does not fit the model's own groups."""
        found = {group.name: group for group in groups}
        for name, share in self.groups.items():
            group = found.get(name)
            if group is None:
                raise ValueError(f"the plan names group {name!r}, which this model does not have")
            ours, theirs = (group.kind, group.num_units), (share.kind, share.num_units)
            if ours != theirs:
                raise ValueError(f"group {name!r}: the plan was made for {theirs}, this model has {ours}")
            bad = [unit for unit in share.kept if not 0 <= unit < group.num_units]
            if bad or sorted(set(share.kept)) != list(share.kept):
                raise ValueError(
                    f"group {name!r}: kept units must ascend within 0..{group.num_units - 1}, "
                    f"got {bad[:3] or 'disorder'}"
                )
        if self.model["fingerprint"] != fingerprint:
            raise ValueError(
                f"the plan was made for a model of structure {self.model['fingerprint']}, this one has "
                f"{fingerprint}: same groups, other parameters"
            )


def structure_fingerprint(architecture: str, shapes: Shapes) -> str:
    """Sixteen hex digits that change with the architecture or any parameter's name or shape."""
    text = json.dumps([architecture, sorted((name, list(shape)) for name, shape in shapes.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
