"""Filter pruning by feature discrimination: the criterion (RFC), and the method that decides where to prune (DLRFC).

He et al., "Filter Pruning via Feature Discrimination in Deep Neural Networks", ECCV 2022. A filter is worth keeping if
the images that excite it most are of few classes. Scores are compared inside of a group only; which groups give way is
tried out: each is cut alone, and those are cut for which accuracy and the distribution over classes hardly change.
First the residual streams give way, then what lies inside of blocks, with a little training after each cut. Details are
those of the authors' code; where it is not followed, a comment `# differs:` says so.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any, ClassVar

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepChannels
from edakari.core.settings import settings
from edakari.criteria import FeatureDiscrimination
from edakari.methods.redundancy.trials import TrialSettings, prune_by_trials

__all__ = ["DistinguishingLayerPruning"]

PAPER = "He et al., Filter Pruning via Feature Discrimination in Deep Neural Networks, ECCV 2022"
CHANNELS: frozenset[type[Any]] = frozenset({KeepChannels})


@register("dlrfc")
@settings
class DistinguishingLayerPruning:
    """Round by round, cut the groups that lose least with their least discriminative filters.

    Args:
        criterion: how filters are scored.
        trial: how groups are tried out, and how much is cut at a time.
    """

    paper: ClassVar[str] = PAPER
    emits: ClassVar[frozenset[type[Any]]] = CHANNELS
    needs_data: ClassVar[bool] = True

    criterion: FeatureDiscrimination = FeatureDiscrimination()
    trial: TrialSettings = TrialSettings()

    def prune(self, job: Job) -> Outcome:
        """See `edakari.core.method.Method`."""
        responses = self.criterion.responses
        trial = dc.replace(self.trial, images=self.trial.images or responses.images)
        return prune_by_trials("dlrfc", self.criterion, trial, responses.labels, job)
