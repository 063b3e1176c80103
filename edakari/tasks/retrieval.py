"""Losses of embeddings, and figures of retrieval by them."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["contrastive", "retrieval_figures", "triplet"]

QUERIES = 256
"""Images that are compared with all others at once."""


def triplet(vectors: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Compute the hinge of squared distances: farthest of the same class, nearest of another (batch hard).

    Schroff et al., "FaceNet", CVPR 2015; Hermans et al., "In Defense of the Triplet Loss", 2017.

    Args:
        vectors: embeddings of length 1, float [N, D].
        labels: classes, int64 [N].
        margin: margin between the squared distances.

    Returns:
        Mean over images that have both in the batch; 0 if none has.
    """
    distances = 2 - 2 * vectors @ vectors.T
    same, other = _pairs(labels)
    farthest = distances.masked_fill(~same, -torch.inf).amax(1)
    nearest = distances.masked_fill(~other, torch.inf).amin(1)
    counted = same.any(1) & other.any(1)
    if not bool(counted.any()):
        return vectors.sum() * 0
    return functional.relu(farthest[counted] - nearest[counted] + margin).mean()


def contrastive(vectors: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute the cross-entropy of similarities, for each image of the same class against all others in the batch.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2; NT-Xent if each class has two images.

    Args:
        vectors: embeddings of length 1, float [N, D].
        labels: classes, int64 [N].
        temperature: temperature of the similarities.

    Returns:
        Mean over images that have another one of their class in the batch; 0 if none has.
    """
    same, _ = _pairs(labels)
    counted = same.any(1)
    if not bool(counted.any()):
        return vectors.sum() * 0
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarities = (vectors @ vectors.T / temperature).masked_fill(itself, -torch.inf)
    logarithms = functional.log_softmax(similarities, dim=1).masked_fill(~same, 0)
    return -(logarithms[counted].sum(1) / same[counted].sum(1)).mean()


def _pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pairs are of one class, without an image and itself, and which are of two; bool [N, N] each."""
    equal = labels[:, None] == labels[None, :]
    return equal & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~equal


def retrieval_figures(vectors: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Compute recall at 1 and 5 and MAP@R of each image among all others, by cosine similarity.

    Args:
        vectors: embeddings of length 1, float [N, D].
        labels: classes, int64 [N]. Images that are the only one of their class are no queries.
    """
    counts = torch.bincount(labels)[labels] - 1  # R, the others of the same class
    queries = torch.nonzero(counts > 0)[:, 0]
    depth = min(len(labels) - 1, max(5, int(counts.max())))
    sums = torch.zeros(3, dtype=torch.float64)
    for some in torch.split(queries, QUERIES):
        similarities = vectors[some] @ vectors.T
        similarities[torch.arange(len(some)), some] = -torch.inf
        nearest = similarities.topk(depth, dim=1).indices
        hits = labels[nearest] == labels[some, None]
        places = torch.arange(1, depth + 1)
        precision = hits.cumsum(1) / places
        relevant = hits & (places <= counts[some, None])
        average = (precision * relevant).sum(1) / counts[some]
        sums += torch.stack([hits[:, :1].any(1).sum(), hits[:, :5].any(1).sum(), average.double().sum()])
    first, five, mean = (float(value) / len(queries) for value in sums)
    return {"recall_at_1": first, "recall_at_5": five, "map_at_r": mean}
