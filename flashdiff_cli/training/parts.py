"""Which samples of a step's batch are computed here: several processes, and several passes of each, share one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Part(NamedTuple):
    """Every `count`-th sample of a batch, from `index` on; what is drawn is drawn for all, so that the parts together are the whole."""

    index: int = 0
    count: int = 1

    def total(self, own: int) -> int:
        """Return the size of the whole batch, of which `own` samples are here."""
        return own * self.count

    def places(self, own: int) -> torch.Tensor:
        """Return the numbers (own,) in the whole batch of the samples that are here."""
        return torch.arange(own) * self.count + self.index


WHOLE = Part()
