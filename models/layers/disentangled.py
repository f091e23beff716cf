"""Attention in which content and distance have vectors of their own (He et al. 2020, arXiv 2006.03654)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.config import EncoderConfig, Norm
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.norm import build_norm
from models.layers.self_attention import Distances, EncoderContext, SelfAttention
from models.ops.packed import Packing, attend
from models.positions import Disentangled


class DistanceTable(nn.Module):
    """A vector for each bucket of distances, shared by all layers: packing -> `Distances`."""

    def __init__(self, kind: Disentangled, hidden_size: int, norm_eps: float) -> None:
        super().__init__()
        self.vectors = Embedding(kind.rows, hidden_size)
        self.norm = build_norm(Norm.LAYER, hidden_size, norm_eps) if kind.norm else None
        self._kind = kind

    def forward(self, packing: Packing) -> Distances:
        vectors = self.vectors(torch.arange(self._kind.rows, device=self.vectors.weight.device))
        table = vectors if self.norm is None else self.norm(vectors)
        rows = tuple(
            row_of(_distances(rectangle.padded, table.device), self._kind) for rectangle in packing.rectangles
        )
        return Distances(table=table, rows=rows)


def row_of(distances: Tensor, kind: Disentangled) -> Tensor:
    """Query position minus key position -> the row of the table; int64, of any shape.

    Farther than the table reaches is its first or last row. As the authors' code has it, in float32: He et
    al. 2020, eq. 3, with the logarithmic steps of DeBERTa-v2.
    """
    half = kind.rows // 2
    steps = distances if kind.buckets is None else _bucket(distances, kind.buckets, kind.max_distance)
    return (steps + half).clamp(0, kind.rows - 1)


def _bucket(distances: Tensor, buckets: int, max_distance: int) -> Tensor:
    single = buckets // 2  # so many distances to either side are told apart
    steps = distances.abs().clamp(min=single)
    growth = (steps / single).log() / torch.tensor((max_distance - 1) / single).log()
    wide = (growth * (single - 1)).ceil() + single
    return torch.where(distances.abs() <= single, distances, (wide * distances.sign()).long())


def _distances(padded: int, device: torch.device) -> Tensor:
    place = torch.arange(padded, device=device)
    return place[:, None] - place


class DisentangledAttention(SelfAttention):
    """Scores are content to content, content to distance and distance to content: [T, hidden] -> [T, hidden].

    ``(Qc Kc^T + Qc Kd^T + Kc Qd^T) * scale``, He et al. 2020, eq. 4: a query also asks for distances (Qc Kd),
    a distance also for keys (Kc Qd). One of the two terms may be missing.
    """

    def __init__(self, config: EncoderConfig, kind: Disentangled) -> None:
        super().__init__(config)
        inner = config.heads * config.head_size
        own_key = kind.content_to_position and not kind.shared
        own_query = kind.position_to_content and not kind.shared
        self.distance_key = Linear(config.hidden_size, inner) if own_key else None
        self.distance_query = Linear(config.hidden_size, inner) if own_query else None
        self._kind = kind

    def forward(self, hidden: Tensor, context: EncoderContext) -> Tensor:
        query, key, value = self._project(hidden, context.mixing)
        content = self._content(context)
        return self.out(attend(query, key, value, context.plan, content).flatten(1), context.mixing)

    def _content(self, context: EncoderContext) -> Callable[[Tensor, Tensor], Tensor]:
        """What `attend` adds to the scores of queries and keys."""
        assert context.distances is not None
        asking, asked = self._project_distances(context.distances.table)
        scale = context.plan.scale
        by_length = {len(rows): rows for rows in context.distances.rows}

        def scores(queries: Tensor, keys: Tensor) -> Tensor:
            rows = by_length[queries.shape[2]].expand(*queries.shape[:3], -1)
            terms = list[Tensor]()
            if asked is not None:
                terms.append((queries @ asked).gather(-1, rows).float() * scale)
            if asking is not None:
                told = (keys @ asking).gather(-1, rows.transpose(-1, -2))
                terms.append(told.transpose(-1, -2).float() * scale)
            return sum(terms[1:], start=terms[0])

        return scores

    def _project_distances(self, table: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Queries and keys that distances have: each [heads, head_dim, rows], where there is such a term."""
        query, key = self._shared_distances(table) if self._kind.shared else self._own_distances(table)
        asking = query if self._kind.position_to_content else None
        asked = key if self._kind.content_to_position else None
        return _heads_first(asking), _heads_first(asked)

    def _shared_distances(self, table: Tensor) -> tuple[Tensor, Tensor]:
        query, key, _ = self._project(table, None)
        return query, key

    def _own_distances(self, table: Tensor) -> tuple[Tensor | None, Tensor | None]:
        query, key = self.distance_query, self.distance_key
        return (
            None if query is None else query(table).unflatten(-1, (self._heads, -1)),
            None if key is None else key(table).unflatten(-1, (self._heads, -1)),
        )


def _heads_first(rows: Tensor | None) -> Tensor | None:
    """[rows, heads, head_dim] -> [heads, head_dim, rows]"""
    return None if rows is None else rows.permute(1, 2, 0)
