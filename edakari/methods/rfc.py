"""Filter pruning by feature discrimination: the method (DLRFC) that decides where to prune by the RFC criterion.

He et al., "Filter Pruning via Feature Discrimination in Deep Neural Networks", ECCV 2022. A filter is worth keeping if
the images that excite it most belong to few classes. Scores are compared within a group only. Trial cuts choose the
groups: the method cuts each group alone, and then cuts those for which accuracy and class distribution hardly change.
It cuts residual streams first, then the groups inside blocks, and trains briefly after each cut. Details follow the
authors' code; a comment `# differs:` marks each deviation.
"""

from __future__ import annotations

import dataclasses as dc
from typing import Any, ClassVar

from edakari.core.method import Job, Outcome, register
from edakari.core.plan import KeepChannels
from edakari.core.settings import settings
from edakari.criteria import FeatureDiscrimination
from edakari.methods.redundancy.trial_settings import TrialSettings
from edakari.methods.redundancy.trials import prune_by_trials

__all__ = ["DistinguishingLayerPruning"]

PAPER = "He et al., Filter Pruning via Feature Discrimination in Deep Neural Networks, ECCV 2022"
CHANNELS: frozenset[type[Any]] = frozenset({KeepChannels})


@register("dlrfc")
@settings
class DistinguishingLayerPruning:
    """In each round, cut the groups whose least discriminative filters matter least.

    Args:
        criterion: settings of the criterion that scores the filters.
        trial: settings of the trial cuts, and the fraction that one cut removes.
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
