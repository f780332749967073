"""Rows of the cache become one padded batch, labelled where there is something to learn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lit_modules.sampling import Pick
from lit_modules.token_cache import Examples

IGNORED = -100


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """Pads on the right to the longest row, rounded up to `multiple`, masking by position, not by id.

    Attributes:
        examples: the opened cache.
        subset: (num_subset,) which of its rows a pick's indices mean.
        multiple: lengths are rounded up to it.
    """

    examples: Examples
    subset: NDArray[np.int64]
    multiple: int = 8

    def __call__(self, pick: Pick) -> dict[str, Any]:
        """Collate one pick.

        Returns:
            input_ids, attention_mask, labels: (batch, length) int64, labels -100 on prompt and padding;
            rows: (batch,) int64 indices into the cache, -1 for fillers; position, mean_targets: as in
            `Pick`; tokens: number of those that are not padding.
        """
        rows = np.where(pick.rows >= 0, self.subset[pick.rows], -1)
        lengths = [int(self.examples.lengths[row]) if row >= 0 else 1 for row in rows]
        width = -(-max(lengths) // self.multiple) * self.multiple
        input_ids = torch.zeros(len(rows), width, dtype=torch.int64)
        labels = torch.full_like(input_ids, IGNORED)
        kept = torch.zeros_like(input_ids)
        for place, (row, length) in enumerate(zip(rows, lengths)):
            kept[place, :length] = 1
            if row >= 0:
                ids = torch.from_numpy(self.examples.input_ids(row).astype(np.int64))
                input_ids[place, :length] = ids
                learned = slice(int(self.examples.num_prompts[row]), length)
                labels[place, learned] = ids[learned]
        return {
            "input_ids": input_ids,
            "attention_mask": kept,
            "labels": labels,
            "rows": torch.from_numpy(rows),
            "position": pick.position,
            "mean_targets": pick.mean_targets,
            "tokens": int(self.examples.lengths[rows[rows >= 0]].sum()),
        }
