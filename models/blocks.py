"""A block: attention and MLP, joined to the stream in one of six ways.

All of them take hidden [T, hidden] and a context, which they hand to their attention and their MLP, and
return [T, hidden]. Which attention it is, they do not know: a decoder's and an encoder's are wired alike.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from models.config import Bias, Mlp, Residual, StackConfig
from models.layers.lora import Mixing
from models.layers.mlp import GatedMlp, PlainMlp
from models.layers.norm import build_norm


class Context(Protocol):
    """What is handed down with the stream; attention knows what else is in it."""

    @property
    def mixing(self) -> Mixing | None:
        """Which rows run with which adapter."""
        ...


class Block(nn.Module):
    """The parts that every block has; the ways to join them are below."""

    def __init__(self, config: StackConfig, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        mlp = GatedMlp if config.mlp is Mlp.GATED else PlainMlp
        self.mlp = mlp(config.hidden_size, config.mlp_size, config.activation, bias=Bias.MLP in config.biases)
        self.attention_norm = _norm(config)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        raise NotImplementedError


class PreNormBlock(Block):
    """Each part reads a normalised copy and adds to the stream: GPT-2, LLaMA (Xiong et al. 2020)."""

    def __init__(self, config: StackConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        self.mlp_norm = _norm(config)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), context)
        return hidden + self.mlp(self.mlp_norm(hidden), context.mixing)


class PostNormBlock(Block):
    """Every sum is normalised: the Transformer of 2017 (§3.1), BERT."""

    def __init__(self, config: StackConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        self.mlp_norm = _norm(config)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = self.attention_norm(hidden + self.attention(hidden, context))
        return self.mlp_norm(hidden + self.mlp(hidden, context.mixing))


class OutputNormBlock(Block):
    """What a part adds to the stream is normalised, what it reads is not: OLMo 2 (arXiv 2501.00656)."""

    def __init__(self, config: StackConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        self.mlp_norm = _norm(config)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = hidden + self.attention_norm(self.attention(hidden, context))
        return hidden + self.mlp_norm(self.mlp(hidden, context.mixing))


class SandwichBlock(Block):
    """Normalised before and behind each part: Gemma 2 (arXiv 2408.00118)."""

    def __init__(self, config: StackConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        self.attention_out_norm = _norm(config)
        self.mlp_norm = _norm(config)
        self.mlp_out_norm = _norm(config)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        attended = self.attention(self.attention_norm(hidden), context)
        hidden = hidden + self.attention_out_norm(attended)
        return hidden + self.mlp_out_norm(self.mlp(self.mlp_norm(hidden), context.mixing))


class ParallelBlock(Block):
    """Attention and MLP read the same stream, each through a norm of its own: GPT-NeoX (arXiv 2204.06745)."""

    def __init__(self, config: StackConfig, attention: nn.Module) -> None:
        super().__init__(config, attention)
        self.mlp_norm = _norm(config)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        attended = self.attention(self.attention_norm(hidden), context)
        return hidden + attended + self.mlp(self.mlp_norm(hidden), context.mixing)


class SharedParallelBlock(Block):
    """The same with one norm for both: GPT-J (Wang, Komatsuzaki 2021), PaLM (arXiv 2204.02311, §2)."""

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        normed = self.attention_norm(hidden)
        return hidden + self.attention(normed, context) + self.mlp(normed, context.mixing)


BLOCKS: dict[Residual, type[Block]] = {
    Residual.PRE: PreNormBlock,
    Residual.POST: PostNormBlock,
    Residual.OUTPUT: OutputNormBlock,
    Residual.SANDWICH: SandwichBlock,
    Residual.PARALLEL: ParallelBlock,
    Residual.PARALLEL_SHARED: SharedParallelBlock,
}


def _norm(config: StackConfig) -> nn.Module:
    return build_norm(config.norm, config.hidden_size, config.norm_eps)
