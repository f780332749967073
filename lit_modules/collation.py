"""Rows of the cache become one batch, padded or packed, labelled where there is something to learn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_modules.sampling import Pick
from lit_modules.token_cache import Examples

IGNORED = -100


@dataclass(frozen=True, slots=True, eq=False)
class Collate:
    """Lays the samples of a pick out as rows of token ids.

    Attributes:
        examples: the opened cache.
        subset: (num_subset,) which of its rows a pick's samples are.
        pack_length: tokens of a row that holds a whole bundle, its samples one after another, positions
            beginning anew with each; None gives every sample a row of its own, padded on the right to
            the longest one and masked by position, not by id.
        multiple: padded lengths are rounded up to it.
    """

    examples: Examples
    subset: NDArray[np.int64]
    pack_length: int | None = None
    multiple: int = 8

    def __call__(self, pick: Pick) -> dict[str, Any]:
        """Collate one pick.

        Returns:
            input_ids, labels: (batch, length) int64, labels -100 on prompts and padding;
            attention_mask (padded) or position_ids (packed): (batch, length) int64;
            rows: (num_samples,) int64 indices into the cache, in the order they lie in, -1 for fillers;
            position, mean_targets: as in `Pick`; tokens: number of those that are not padding.
        """
        samples = [np.where(bundle >= 0, self.subset[bundle], -1) for bundle in pick.bundles]
        rows = np.concatenate(samples)
        laid_out = self._packed(samples, self.pack_length) if self.pack_length else self._padded(rows)
        return {
            **laid_out,
            "rows": torch.from_numpy(rows),
            "position": pick.position,
            "mean_targets": pick.mean_targets,
            "tokens": int(self.examples.lengths[rows[rows >= 0]].sum()),
        }

    def _padded(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        longest = max(int(self.examples.lengths[row]) if row >= 0 else 1 for row in rows)
        input_ids, labels = blank(len(rows), -(-longest // self.multiple) * self.multiple)
        kept = torch.zeros_like(input_ids)
        for place, row in enumerate(rows):
            kept[place, : self._write(row, input_ids[place], labels[place])] = 1
        return {"input_ids": input_ids, "attention_mask": kept, "labels": labels}

    def _packed(self, samples: list[NDArray[np.int64]], pack_length: int) -> dict[str, Tensor]:
        input_ids, labels = blank(len(samples), pack_length)
        positions = torch.arange(pack_length).repeat(len(samples), 1)
        for place, rows in enumerate(samples):
            start = 0
            for row in rows:
                start += self._write(row, input_ids[place, start:], labels[place, start:])
                positions[place, start:] = torch.arange(pack_length - start)
        return {"input_ids": input_ids, "position_ids": positions, "labels": labels}

    def _write(self, row: int, input_ids: Tensor, labels: Tensor) -> int:
        """Write one sample to where it begins; returns its length, 1 for a filler."""
        if row < 0:
            return 1
        ids = torch.from_numpy(self.examples.input_ids(row).astype(np.int64))
        num_prompt = int(self.examples.num_prompts[row])
        input_ids[: len(ids)] = ids
        labels[num_prompt : len(ids)] = ids[num_prompt:]
        return len(ids)


def blank(num_rows: int, length: int) -> tuple[Tensor, Tensor]:
    """(num_rows, length) ids of nothing and labels of nothing to learn."""
    input_ids = torch.zeros(num_rows, length, dtype=torch.int64)
    return input_ids, torch.full_like(input_ids, IGNORED)
