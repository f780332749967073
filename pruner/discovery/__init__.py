"""What a model can lose: discovery of prunable groups by index-exact tracing.

Every index of every dimension of every parameter is an *atom*. One forward pass on the meta device
is recorded (`recording`) and followed operator by operator (`propagation`, `rules`): a traced
tensor carries *facets*, labels that say for a dimension which atom owns each index (`labels`). A
dimension may carry several; an element falls when any of its atoms does. Operators yield two kinds
of rules (`constraints`):

- union(a, b): the two fall together;
- define(t, [f, g, ...]): t falls if and only if f or g or ... does.

Labels that meet (`matching`) are united if they part the indices alike. If one refines the other,
as query heads do the key-value heads that they share, the finer is defined by the coarser and a
fresh residual. Where labels would vary along two dimensions at once, as channels do once they are
viewed as heads x head size, each dimension gets fresh atoms that define the old: only whole rows of
a dimension can go.

Solving (`solving`) finds connected components, expands definitions to their leaves and unites what
has the same leaves, to a fixpoint. Every primitive class with all that it reaches is a *unit*;
units of one signature are a family (`families`), and a family that something produces and something
reads is a group (`kinds`). What the numbers on modules must become after a cut is foretold and
probed on the twin (`foretelling`, `probing`). What cannot be followed is frozen, with the operator
and the line of the model's code; docs/discovery.md tells more.
"""

from pruner.discovery.discovering import WITHIN_LAYERS, discover
from pruner.discovery.structure import Refusal, Structure

__all__ = ["WITHIN_LAYERS", "Refusal", "Structure", "discover"]
