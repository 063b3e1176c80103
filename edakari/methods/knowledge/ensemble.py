"""A greedy search by masks whose reward is the distance to labels and to the mean output of the networks so far.

Shapes: N search images, C logits of each.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from edakari.core.budget import Limits
from edakari.core.method import Job
from edakari.core.plan import KeepChannels, Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Batch
from edakari.core.space import Sizes
from edakari.errors import ModelError
from edakari.methods.knowledge.reuse import Reuse
from edakari.methods.knowledge.sites import SiteTaylor
from edakari.methods.masking.consumers import names_in
from edakari.methods.masking.masks import Masks
from edakari.models.weights import weights_digest
from edakari.solve.binarization import otsu
from edakari.solve.greedy import AcceptedStep, Candidate, GreedyDescent
from edakari.train import batch_statistics, progress_bar
from edakari.train.checkpoint import Checkpoint, read, write

__all__ = ["EnsembleSearch", "Knowledge", "SearchSettings", "SearchStep", "distance", "group_steps"]


@dc.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How the search goes.

    Args:
        cut: share of a group that one step removes, divided by the number of layers that write it.
        knowledge: "ensemble" is the mean output so far, "single" the first network's, "none" leaves the labels.
        filtered: only groups whose next channels matter least are looked at, by Otsu's threshold.
        batch_statistics: batch normalisations take the statistics of each batch.
        reuse_bytes: memory for outputs that candidates have in common.
    """

    cut: float = 0.2
    knowledge: Literal["ensemble", "single", "none"] = "ensemble"
    filtered: bool = True
    batch_statistics: bool = True
    reuse_bytes: int = 1 << 30


@dc.dataclass(frozen=True)
class SearchStep:
    """A network on the way.

    Args:
        kept: which channels it has, bool [channels].
        loss: the task's, on the search images.
        step: that led to it; None for the first network.
    """

    kept: torch.Tensor
    loss: float
    step: AcceptedStep | None = None


@dc.dataclass(frozen=True)
class Knowledge:
    """Mean output of some networks: logits float64 [N, C], so that what is the same every time stays the same."""

    mean: torch.Tensor
    count: int = 1

    def then(self, logits_NC: torch.Tensor) -> Knowledge:
        """Joined by another network's output."""
        return Knowledge((self.count * self.mean + logits_NC.double()) / (self.count + 1), self.count + 1)


def distance(logits_NC: torch.Tensor, aims_NC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy to the softmax of other logits, summed over images (temperature 1)."""
    aims_NC = functional.softmax(aims_NC, dim=1).to(logits_NC)
    return -(aims_NC * functional.log_softmax(logits_NC, dim=1)).sum()


def group_steps(masks: Masks, cut: float) -> dict[str, float]:
    """Share of each group that one step removes: `cut` over the number of layers that write it, or one channel."""
    layouts = masks.graph.layouts
    writers = [names_in(layouts[write.weight][write.dim]) for write in masks.producers]
    layers = {group.name: max(1, sum(group.name in names for names in writers)) for group in masks.groups}
    return {group.name: max(1 / group.size, cut / layers[group.name]) for group in masks.groups}


class EnsembleSearch:
    """The search: score, look at candidates, accept; run state.

    Batches and candidates are shared out over the processes, which all come to the same trail. Every accepted step is
    written to the job's folder, and a search that was stopped goes on from there.

    Args:
        job: whose network is searched; its weights stay as they are.
        masks: of its groups, in mode "hard".
        settings: how.
        batches: search images with labels; their composition is fixed, since statistics of batches depend on it.
    """

    def __init__(self, job: Job, masks: Masks, settings: SearchSettings, batches: Sequence[Batch]) -> None:
        self.job, self.masks, self.settings, self.batches = job, masks, settings, batches
        self.counts = [len(batch[1]) for batch in batches]
        self.taylor = SiteTaylor(masks)
        self.reuse = Reuse(masks.model, settings.reuse_bytes)
        self.search_steps: list[SearchStep] = []
        self.looks = 0
        self.descent = GreedyDescent(group_steps(masks, settings.cut))
        with self.working():
            logits_NC = self.outputs(torch.ones(masks.size, dtype=torch.bool))
        self.first = Knowledge(logits_NC.double())
        self.start = SearchStep(torch.ones(masks.size, dtype=torch.bool), self._label_loss(logits_NC))
        self.knowledge = self.first
        self._position = 0
        self._looked: tuple[SearchStep, torch.Tensor] | None = None
        self._identity = self._identified()
        self._restore()

    def run(self, limits: Limits) -> tuple[SearchStep, ...]:
        """Search down to some limits; what an earlier search had come to in the same way is taken over.

        Returns:
            The networks from the first to the final one.
        """
        dense, self._position, self._looked = max(limits.excess({}), 1e-12), 0, None
        known = [search_step.step for search_step in self.search_steps if search_step.step is not None]
        with self.working(), progress_bar("search", 100, Processes.here().main) as bar:
            for sizes, step in self.descent.search(self.masks.groups, limits, self._look, known):
                if self._looked is not None:
                    search_step, logits_NC = self._looked
                    self.search_steps.append(dc.replace(search_step, step=step))
                    self.knowledge, self._looked = self.knowledge.then(logits_NC), None
                    self._save()
                self._position += 1
                self._tell(limits, sizes, self.search_steps[self._position - 1])
                left = max(0.0, limits.excess(sizes))
                text = f"{limits.describe(sizes)}, reward {step.value:.4g}, {step.group} to {step.size}"
                bar(round(100 * (1 - left / dense)), text)
        self.reuse.forget()
        return (self.start, *self.search_steps[: self._position])

    def plan(self, search_step: SearchStep) -> Plan:
        """What leads to a network on the way; groups that are whole have no edit."""
        edits = []
        for group in self.masks.groups:
            part = search_step.kept[self.masks.part(group.name)]
            if not bool(part.all()):
                edits.append(KeepChannels(group.name, tuple(part.nonzero().view(-1).tolist())))
        return Plan(tuple(edits), self.job.graph.fingerprint, self.job.graph.inputs)

    def _look(self, sizes: Sizes, candidates: Sequence[Candidate]) -> tuple[int, float]:
        """The candidate of highest reward, by its place, and the reward."""
        self._forget_after(self._position)
        self.looks += 1
        before = self.search_steps[-1].kept if self.search_steps else self.start.kept
        self.reuse.forget()
        scores = self.scores(before)
        self._require_finite_scores(scores)
        kept = [self.narrowed(before, scores, candidate) for candidate in candidates]
        chosen = list(range(len(candidates)))
        if self.settings.filtered:
            keys = [float(scores[before & ~each].sum()) for each in kept]
            threshold = otsu(keys)
            chosen = [place for place in chosen if keys[place] <= threshold]
        losses, logits = self._compare([(candidates[place].group, kept[place]) for place in chosen])
        rewards = torch.where(losses.isfinite().all(1), -losses.sum(1), -torch.inf)  # a cut may overflow
        if not bool(rewards.isfinite().any()):
            raise ModelError(
                f"EKG: none of the {len(chosen)} networks that the search looked at gives a finite loss and distance; "
                "exclude the groups that it cuts, or use a network whose outputs are smaller"
            )
        names = [candidates[place].group for place in chosen]
        best = max(range(len(chosen)), key=lambda index: (float(rewards[index]), names[index]))
        self._looked = SearchStep(kept[chosen[best]], float(losses[best, 0])), self._joined(logits, best)
        return chosen[best], float(rewards[best])

    def scores(self, kept: torch.Tensor) -> torch.Tensor:
        """What the objective would lose, to first order, without each channel: float64 [channels].

        The outputs of modules are recorded on the way.
        """
        self.masks.set(kept)
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
                    f"EKG: the importance of group {group.name!r} is not finite (NaN or infinite), so that nothing can "
                    "be ranked; check the network's weights and outputs, and the labels"
                )

    def narrowed(self, before: torch.Tensor, scores: torch.Tensor, candidate: Candidate) -> torch.Tensor:
        """Masks in which a group keeps its best channels; what is gone never comes back."""
        part = self.masks.part(candidate.group)
        rank = torch.where(before[part], scores[part], -1.0)
        best = torch.argsort(rank, descending=True, stable=True)[: candidate.size]
        kept = before.clone()
        kept[part] = False
        kept[part.start + best] = True
        return kept

    def _compare(self, candidates: Sequence[tuple[str, torch.Tensor]]) -> tuple[torch.Tensor, dict[Any, torch.Tensor]]:
        """Mean task loss and distance of each candidate, float64 [candidates, 2], and the logits found here."""
        table_KBT = torch.zeros(len(candidates), len(self.batches), 2, dtype=torch.float64)
        jobs = [(batch, index) for batch in range(len(self.batches)) for index in range(len(candidates))]
        logits = {}
        for batch, index in (jobs[job] for job in Processes.here().share(len(jobs))):
            group, kept = candidates[index]
            self.masks.set(kept)
            with self.reuse.handing_out(batch, self.masks.touched(group)):
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
        """Task loss and distance to the knowledge, summed over the images of a batch: [2]."""
        images = self.batches[batch]
        label = torch.stack(list(self.job.task.loss(outputs, images).values())).sum() * self.counts[batch]
        if self.settings.knowledge == "none":
            return torch.stack([label, torch.zeros_like(label)])
        knowledge = self.knowledge if self.settings.knowledge == "ensemble" else self.first
        aims = torch.split(knowledge.mean, self.counts)[batch].to(outputs.device)
        return torch.stack([label, distance(outputs.float(), aims)])

    def outputs(self, kept: torch.Tensor) -> torch.Tensor:
        """Logits under some masks, float32 [N, C] on the CPU, made by every process for itself."""
        self.masks.set(kept)
        found = [self.job.task.outputs(self.masks.model, batch).float().cpu() for batch in self.batches]
        return torch.cat(found)

    def _label_loss(self, logits_NC: torch.Tensor) -> float:
        parts = zip(torch.split(logits_NC, self.counts), self.batches, self.counts, strict=True)
        return sum(float(sum(self.job.task.loss(z, batch).values())) * n for z, batch, n in parts) / sum(self.counts)

    def _forget_after(self, position: int) -> None:
        """Drop the steps after a place; the knowledge there is the mean output of the networks up to it."""
        if len(self.search_steps) == position:
            return
        self.search_steps = self.search_steps[:position]
        self.knowledge = self.first
        for search_step in self.search_steps:
            self.knowledge = self.knowledge.then(self.outputs(search_step.kept))

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The network computes with its masks, and batch normalisations as the settings say; ends as it was."""
        model: nn.Module = self.masks.model
        with torch.no_grad(), batch_statistics(model, self.settings.batch_statistics), self.masks.installed():
            yield

    def _tell(self, limits: Limits, sizes: Sizes, search_step: SearchStep) -> None:
        assert search_step.step is not None
        costs = {cost.name: cost.total(sizes) for cost, _ in limits.terms}
        figures = {"width": search_step.step.size, "reward": search_step.step.value, "loss": search_step.loss}
        self.job.log(f"step {self._position}: {search_step.step.group}", {**figures, **costs})

    def _identified(self) -> dict[str, Any]:
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
            "kept": torch.stack([search_step.kept for search_step in self.search_steps]),
            "mean": self.knowledge.mean,
        }
        write(self.job.folder / "search.safetensors", Checkpoint(self._identity, len(steps), False, state))

    def _restore(self) -> None:
        found = read(self.job.folder / "search.safetensors", self._identity) if self.job.folder else None
        if found is None:
            return
        for step, loss, kept in zip(found.state["steps"], found.state["losses"], found.state["kept"], strict=True):
            candidates = tuple(Candidate(**candidate) for candidate in step["candidates"])
            accepted = AcceptedStep(step["group"], step["size"], step["value"], candidates)
            self.search_steps.append(SearchStep(kept, loss, accepted))
        self.knowledge = Knowledge(found.state["mean"], len(self.search_steps) + 1)
