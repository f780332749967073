"""What a family of units is in the words of the field: MLP channels, attention units, experts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pruner.discovery.families import Family
from pruner.discovery.layers import layer_of
from pruner.groups import Kind

Place = tuple[str, int]
"""A parameter and one of its axes."""


def stream_of(families: Iterable[Family], layers: Sequence[str]) -> set[Place]:
    """The axes of the residual stream: those of the channels that go through most layers."""
    most = 0
    stream: set[Place] = set()
    for family in families:
        places = {(piece.axis.name, piece.axis.dim) for piece in family.pieces}
        through = len({layer_of(name, layers) for name, _ in places} - {None})
        if "reads" in family.marks and (through, len(places)) > (most, len(stream)):
            most, stream = through, places
    return stream


def headed_places(families: Iterable[Family]) -> set[Place]:
    """The axes that are divided into heads, for each of which activations are multiplied separately."""
    return {place for family in families if "batch" in family.marks for place in places_of(family)}


def kind_of(family: Family, stream: set[Place], headed: set[Place]) -> Kind | None:
    """The kind of a family that lies in one layer, None for what has no name (ranks, head dimensions).

    MLP channels are computed from the residual stream and contracted into it; those of several experts
    may share an axis. Attention units are those for each of which activations are multiplied separately.
    Experts are chosen by indices.
    """
    read = [piece.axis.name for piece in family.pieces if piece.reads]
    written = [piece.axis.name for piece in family.pieces if not piece.reads]
    in_stream = {name for name, _ in stream}
    if "chosen" in family.marks and not read:
        return "expert"
    if not (in_stream & set(read)) or not written:
        return None
    if "batch" in family.marks:
        return "attention"
    if not in_stream & set(written) or (family.factor and headed & places_of(family)):
        return None
    return "mlp"


def places_of(family: Family) -> frozenset[Place]:
    """The axes that a family cuts."""
    return frozenset((piece.axis.name, piece.axis.dim) for piece in family.pieces)


def is_query(family: Family, others: Iterable[Family]) -> bool:
    """Whether an attention family cuts part of what another does: query heads within key-value groups."""
    return any(places_of(family) <= places_of(other) and extent(family) < extent(other) for other in others)


def extent(family: Family) -> int:
    """How many indices a family cuts, over all its axes: a fused projection's are all on one."""
    return sum(piece.index.size for piece in family.pieces)
