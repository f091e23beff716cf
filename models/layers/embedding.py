"""From token numbers to what goes into the first block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from models.config import StackConfig
from models.layers.linear import Linear, project
from models.layers.norm import build_norm
from models.layers.sinusoidal import SinusoidalEmbedding
from models.positions import Learned, Sinusoidal

if TYPE_CHECKING:
    from models.native.weights import Matrix


class Embedding(nn.Embedding):
    """A plain `nn.Embedding`: ids [T] -> [T, size].

    With `matrix`, its rows are kept for the kernels and nowhere else; with `wide`, vectors are float32.
    """

    matrix: Matrix | None = None
    wide = False

    def forward(self, input: Tensor) -> Tensor:
        if self.matrix is not None:
            return self.matrix.rows(input)
        found = super().forward(input)
        return found.float() if self.wide else found

    def replace(self, matrix: Matrix) -> None:
        """Let the table go; `weight` is empty afterwards."""
        self.matrix = matrix
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def compare(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        """Inner products with every vector: rows [R, size] -> [R, vocab]."""
        if self.matrix is None:
            return project(rows, self.weight, bias)
        products = self.matrix(rows)
        return products if bias is None else products + bias

    def reset_parameters(self) -> None:
        """Random rows; none on the meta device, where drawing nothing costs 1.2 s of imports."""
        if not self.weight.is_meta:
            super().reset_parameters()


class LearnedPositions(Embedding):
    """positions [T] -> [T, size], row p + offset of the table (Gehring et al. 2017)."""

    def __init__(self, learned: Learned, size: int) -> None:
        super().__init__(learned.rows, size)
        self._offset = learned.offset

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + self._offset)


def build_positions(positions: object, size: int) -> LearnedPositions | SinusoidalEmbedding | None:
    """What is added to a token's vector to say where it is; None where nothing is."""
    match positions:
        case Learned():
            return LearnedPositions(positions, size)
        case Sinusoidal():
            return SinusoidalEmbedding(positions, size)
        case _:
            return None


class Embeddings(nn.Module):
    """Vector of the token, scaled, projected, + those of its place and segment, normalised: what there is.

    tokens [T], positions [T], segments [T] -> [T, hidden]. There are `segments` of them, 0: they are not
    told apart; None: all tokens are of the first.
    """

    def __init__(self, config: StackConfig, positions: object, segments: int = 0) -> None:
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.words = Embedding(config.vocab_size, size)
        self.project = Linear(size, config.hidden_size, bias=False) if config.embedding_size else None
        self.positions = build_positions(positions, config.hidden_size)
        self.segments = Embedding(segments, config.hidden_size) if segments else None
        self.norm = (
            build_norm(config.norm, config.hidden_size, config.norm_eps) if config.embedding_norm else None
        )
        self._scale = config.embedding_scale

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        hidden = self.words(tokens)
        if self._scale != 1.0:
            hidden = hidden * hidden.new_full((), self._scale)  # rounded to the dtype, as Gemma was trained
        if self.project is not None:
            hidden = self.project(hidden)
        if self.positions is not None:
            hidden = hidden + self.positions(positions).to(hidden.dtype)
        hidden = _add_segments(hidden, self.segments, segments)
        return hidden if self.norm is None else self.norm(hidden)


class FactorisedEmbeddings(nn.Module):
    """The same, summed and normalised at a smaller size, then projected: ALBERT (arXiv 1909.11942, §3.1)."""

    def __init__(self, config: StackConfig, positions: object, segments: int, size: int) -> None:
        super().__init__()
        self.words = Embedding(config.vocab_size, size)
        self.positions = build_positions(positions, size)
        self.segments = Embedding(segments, size) if segments else None
        self.norm = build_norm(config.norm, size, config.norm_eps)
        self.project = Linear(size, config.hidden_size)

    def forward(self, tokens: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        hidden = self.words(tokens)
        if self.positions is not None:
            hidden = hidden + self.positions(positions).to(hidden.dtype)
        return self.project(self.norm(_add_segments(hidden, self.segments, segments)))


def _add_segments(hidden: Tensor, table: Embedding | None, segments: Tensor | None) -> Tensor:
    """ValueError where segments are named, but the model does not tell them apart."""
    if table is None:
        if segments is not None:
            raise ValueError("this model does not tell segments apart")
        return hidden
    return hidden + (table.weight[0] if segments is None else table(segments))
