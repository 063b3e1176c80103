"""A greedy search over masks; its reward is the distance to the labels and to the mean output of earlier networks.

Shapes: N search images, C logits of each.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.method import Job
from edakari.core.plan import KeepChannels, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.core.space import Sizes
from edakari.errors import ModelError
from edakari.methods.knowledge.reuse import Reuse
from edakari.methods.knowledge.sites import SiteTaylor
from edakari.methods.knowledge.teacher import Knowledge, distance
from edakari.methods.masking.consumers import names_in
from edakari.methods.masking.masks import Masks
from edakari.models.weights import weights_digest
from edakari.solve.binarization import otsu
from edakari.solve.greedy import AcceptedStep, Candidate, GreedyDescent
from edakari.train import batch_statistics, progress_bar
from edakari.train.checkpoint import Checkpoint, read, write

__all__ = ["EnsembleSearch", "SearchSettings", "SearchStep", "group_steps"]


@dc.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of the search.

    Args:
        cut: fraction of a group that one step removes, divided by the number of layers that produce the group.
        knowledge: teacher: "ensemble" is the mean output so far, "single" the output of the first network, "none" uses
            labels only.
        filtered: consider only the groups whose next channels matter least, by Otsu's threshold.
        batch_statistics: let batch norms use the statistics of each batch.
        reuse_bytes: memory for outputs that are the same in all candidates, in bytes.
    """

    cut: float = 0.2
    knowledge: Literal["ensemble", "single", "none"] = "ensemble"
    filtered: bool = True
    batch_statistics: bool = True
    reuse_bytes: int = 1 << 30


@dc.dataclass(frozen=True)
class SearchStep:
    """A sub-network of the search.

    Args:
        mask: which channels the sub-network has, bool [channels].
        loss: loss of the task on the search images.
        step: accepted step that led to the sub-network; None for the first network.
    """

    mask: torch.Tensor
    loss: float
    step: AcceptedStep | None = None


def group_steps(masks: Masks, cut: float) -> dict[str, float]:
    """Fraction of each group that one step removes: `cut` over the number of its producers, but at least one channel.

    Args:
        masks: masks of the groups.
        cut: fraction for a group with a single producer.
    """
    layouts = masks.graph.layouts
    writers = [names_in(layouts[write.weight][write.dim]) for write in masks.producers]
    layers = {group.name: max(1, sum(group.name in names for names in writers)) for group in masks.groups}
    return {group.name: max(1 / group.size, cut / layers[group.name]) for group in masks.groups}


class EnsembleSearch:
    """The search: scores channels, compares candidates, accepts a step; run state.

    Processes divide batches and candidates among them, and all accept the same steps. The job's folder records every
    accepted step, and an interrupted search continues from there.

    Args:
        job: job whose network is searched; the weights of the network do not change.
        masks: masks of the network's groups, in mode "hard".
        settings: settings of the search.
        batches: search images with labels; the batches are fixed, because batch statistics depend on them.
    """

    def __init__(self, job: Job, masks: Masks, settings: SearchSettings, batches: Sequence[Batch]) -> None:
        self.job, self.masks, self.settings, self.batches = job, masks, settings, batches
        self.counts = [len(batch[1]) for batch in batches]
        self.taylor = SiteTaylor(masks)
        self.reuse = Reuse(masks.model, settings.reuse_bytes)
        self.search_steps: list[SearchStep] = []
        self.scored_steps = 0
        self.descent = GreedyDescent(group_steps(masks, settings.cut))
        with self.working():
            logits_NC = self.outputs(torch.ones(masks.size, dtype=torch.bool))
        self.first = Knowledge(logits_NC.double())
        self.start = SearchStep(torch.ones(masks.size, dtype=torch.bool), self._label_loss(logits_NC))
        self.knowledge = self.first
        self._position = 0
        self._accepted: tuple[SearchStep, torch.Tensor] | None = None
        self._identity = self._identity_of()
        self._restore()

    def run(self, limits: Limits) -> tuple[SearchStep, ...]:
        """Search until the limits are met; steps that an earlier search has accepted are reused.

        Args:
            limits: limits of the final network.

        Returns:
            The networks from the first to the final one.
        """
        dense, self._position, self._accepted = max(limits.excess({}), 1e-12), 0, None
        known = [search_step.step for search_step in self.search_steps if search_step.step is not None]
        with self.working(), progress_bar("search", 100, Processes.here().main) as bar:
            for sizes, step in self.descent.search(self.masks.groups, limits, self._best_candidate, known):
                if self._accepted is not None:
                    search_step, logits_NC = self._accepted
                    self.search_steps.append(dc.replace(search_step, step=step))
                    self.knowledge, self._accepted = self.knowledge.then(logits_NC), None
                    self._save()
                self._position += 1
                self._log(limits, sizes, self.search_steps[self._position - 1])
                left = max(0.0, limits.excess(sizes))
                event = {"reward": step.value, "text": f"{limits.describe(sizes)}, {step.group} to {step.size}"}
                bar.at(round(100 * (1 - left / dense)), functools.partial(dict, event))
        self.reuse.forget()
        return (self.start, *self.search_steps[: self._position])

    def plan(self, search_step: SearchStep) -> Plan:
        """Return the plan that leads to a sub-network; unpruned groups have no edit.

        Args:
            search_step: sub-network of the search.
        """
        edits = []
        for group in self.masks.groups:
            part = search_step.mask[self.masks.part(group.name)]
            if not bool(part.all()):
                edits.append(KeepChannels(group.name, tuple(part.nonzero().view(-1).tolist())))
        return Plan(tuple(edits), self.job.graph.fingerprint, self.job.graph.inputs)

    def _best_candidate(self, sizes: Sizes, candidates: Sequence[Candidate]) -> tuple[int, float]:
        """Return the index of the candidate with the highest reward, and the reward."""
        self._drop_after(self._position)
        self.scored_steps += 1
        before = self.search_steps[-1].mask if self.search_steps else self.start.mask
        self.reuse.forget()
        scores = self.scores(before)
        self._require_finite_scores(scores)
        masks = [self.narrowed(before, scores, candidate) for candidate in candidates]
        chosen = list(range(len(candidates)))
        if self.settings.filtered:
            keys = [float(scores[before & ~mask].sum()) for mask in masks]
            threshold = otsu(keys)
            chosen = [index for index in chosen if keys[index] <= threshold]
        losses, logits = self._compare([(candidates[index].group, masks[index]) for index in chosen])
        rewards = torch.where(losses.isfinite().all(1), -losses.sum(1), -torch.inf)  # a cut may overflow
        if not bool(rewards.isfinite().any()):
            raise ModelError(
                f"EKG: none of the {len(chosen)} candidates of the search has a finite loss and distance; exclude the "
                "groups that they cut, or use a network with smaller outputs"
            )
        names = [candidates[index].group for index in chosen]
        best = max(range(len(chosen)), key=lambda index: (float(rewards[index]), names[index]))
        self._accepted = SearchStep(masks[chosen[best]], float(losses[best, 0])), self._joined(logits, best)
        return chosen[best], float(rewards[best])

    def scores(self, mask: torch.Tensor) -> torch.Tensor:
        """First-order change of the objective without each channel, float64 [channels]; also records module outputs.

        Args:
            mask: mask of the current network, bool [channels].
        """
        self.masks.set(mask)
        row_BK = torch.zeros(len(self.batches), self.masks.size, dtype=torch.float64)
        for index in Processes.here().share(len(self.batches)):
            images, labels, *rest = self.batches[index]
            batch = (images.clone().requires_grad_(), labels, *rest)

            def loss(batch: Batch = batch, index: int = index) -> torch.Tensor:
                with torch.enable_grad(), self.reuse.recording(index):
                    return self.terms(self.job.task.outputs(self.masks.model, batch), index).sum()

            row_BK[index] = self.taylor.score(loss)
        return Processes.here().reduced(row_BK).sum(0) / sum(self.counts)

    def _require_finite_scores(self, scores: torch.Tensor) -> None:
        for group in self.masks.groups:
            if not bool(scores[self.masks.part(group.name)].isfinite().all()):
                raise ModelError(
                    f"EKG: the importance of group {group.name!r} is not finite (NaN or infinite), so that channels "
                    "cannot be ranked; check the network's weights and outputs, and the labels"
                )

    def narrowed(self, before: torch.Tensor, scores: torch.Tensor, candidate: Candidate) -> torch.Tensor:
        """Return the mask in which a group keeps its best channels; removed channels never return.

        Args:
            before: current mask, bool [channels].
            scores: score of each channel, float64 [channels].
            candidate: group, and its new size.
        """
        part = self.masks.part(candidate.group)
        rank = torch.where(before[part], scores[part], -1.0)
        best = torch.argsort(rank, descending=True, stable=True)[: candidate.size]
        mask = before.clone()
        mask[part] = False
        mask[part.start + best] = True
        return mask

    def _compare(self, candidates: Sequence[tuple[str, torch.Tensor]]) -> tuple[torch.Tensor, dict[Any, torch.Tensor]]:
        """Mean task loss and distance of each candidate, float64 [candidates, 2], and the logits of this process."""
        table_KBT = torch.zeros(len(candidates), len(self.batches), 2, dtype=torch.float64)
        jobs = [(batch, index) for batch in range(len(self.batches)) for index in range(len(candidates))]
        logits = {}
        for batch, index in (jobs[job] for job in Processes.here().share(len(jobs))):
            group, mask = candidates[index]
            self.masks.set(mask)
            with self.reuse.reusing(batch, self.masks.affected_modules(group)):
                outputs = self.job.task.outputs(self.masks.model, self.batches[batch]).float()
            table_KBT[index, batch] = self.terms(outputs, batch).double().cpu()
            logits[index, batch] = outputs.cpu()
        return Processes.here().reduced(table_KBT).sum(1) / sum(self.counts), logits

    def _joined(self, logits: dict[Any, torch.Tensor], best: int) -> torch.Tensor:
        """The logits of one candidate from all processes, [N, C]."""
        parts = torch.split(torch.zeros_like(self.first.mean, dtype=torch.float32), self.counts)
        for batch, part in enumerate(parts):
            if (best, batch) in logits:
                part.copy_(logits[best, batch])
        return Processes.here().reduced(torch.cat(parts))

    def terms(self, outputs: torch.Tensor, batch: int) -> torch.Tensor:
        """Task loss and distance to the knowledge, summed over the images of a batch, float [2].

        Args:
            outputs: logits of the current network for the batch.
            batch: index of the batch.
        """
        images = self.batches[batch]
        label = torch.stack(list(self.job.task.loss(outputs, images).values())).sum() * self.counts[batch]
        if self.settings.knowledge == "none":
            return torch.stack([label, torch.zeros_like(label)])
        knowledge = self.knowledge if self.settings.knowledge == "ensemble" else self.first
        aims = torch.split(knowledge.mean, self.counts)[batch].to(outputs.device)
        return torch.stack([label, distance(outputs.float(), aims)])

    def outputs(self, mask: torch.Tensor) -> torch.Tensor:
        """Logits of a masked network, float32 [N, C] on the CPU; each process computes those of its batches.

        Args:
            mask: mask of the network, bool [channels].
        """
        self.masks.set(mask)
        here = Processes.here()
        run = self.job.task.outputs
        own = {number: run(self.masks.model, batch).float().cpu() for number, batch in here.numbered(self.batches)}
        return torch.cat(here.joined(own))

    def _label_loss(self, logits_NC: torch.Tensor) -> float:
        parts = zip(torch.split(logits_NC, self.counts), self.batches, self.counts, strict=True)
        return sum(float(sum(self.job.task.loss(z, batch).values())) * n for z, batch, n in parts) / sum(self.counts)

    def _drop_after(self, position: int) -> None:
        """Drop the steps after a position, and compute the mean output of the networks up to it again."""
        if len(self.search_steps) == position:
            return
        self.search_steps = self.search_steps[:position]
        self.knowledge = self.first
        for search_step in self.search_steps:
            self.knowledge = self.knowledge.then(self.outputs(search_step.mask))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Install the masks, and set the batch norms as the settings say; restores the network at the end."""
        model: nn.Module = self.masks.model
        with torch.no_grad(), batch_statistics(model, self.settings.batch_statistics), self.masks.installed():
            yield

    def _log(self, limits: Limits, sizes: Sizes, search_step: SearchStep) -> None:
        assert search_step.step is not None
        costs = {cost.name: cost.total(sizes) for cost, _ in limits.terms}
        figures = {"width": search_step.step.size, "reward": search_step.step.value, "loss": search_step.loss}
        self.job.log(f"step {self._position}: {search_step.step.group}", {**figures, **costs})

    def _identity_of(self) -> dict[str, Any]:
        settings = {key: value for key, value in dc.asdict(self.settings).items() if key != "reuse_bytes"}
        numbers = [int(number) for batch in self.batches for number in batch[2].tolist()]
        groups = [[group.name, group.size, group.step, group.least] for group in self.masks.groups]
        weights = weights_digest(self.masks.model)
        return {"settings": settings, "images": numbers, "groups": groups, "weights": weights}

    def _save(self) -> None:
        if self.job.folder is None or not Processes.here().main:
            return
        steps = [dc.asdict(search_step.step) for search_step in self.search_steps if search_step.step is not None]
        state = {
            "steps": steps,
            "losses": [search_step.loss for search_step in self.search_steps],
            "kept": torch.stack([search_step.mask for search_step in self.search_steps]),
            "mean": self.knowledge.mean,
        }
        write(self.job.folder / "search.safetensors", Checkpoint(self._identity, len(steps), False, state))

    def _restore(self) -> None:
        found = read(self.job.folder / "search.safetensors", self._identity) if self.job.folder else None
        if found is None:
            return
        for step, loss, mask in zip(found.state["steps"], found.state["losses"], found.state["kept"], strict=True):
            candidates = tuple(Candidate(**candidate) for candidate in step["candidates"])
            accepted = AcceptedStep(step["group"], step["size"], step["value"], candidates)
            self.search_steps.append(SearchStep(mask, loss, accepted))
        self.knowledge = Knowledge(found.state["mean"], len(self.search_steps) + 1)
