"""What the tensors of T5 and its like are called."""

from __future__ import annotations

from models.families.naming import Either, Names

WORDS = ("decoder.embed_tokens", "shared")
CROSS = "decoder.block.{}.layer.1.EncDecAttention"


def stack(name: str, mlp: int) -> Names:
    """Of the encoder or the decoder; `mlp`: which part of a layer that is."""
    layer = f"{name}.block.{{}}.layer"
    return {
        f"{name}.blocks.{{}}.attention_norm": f"{layer}.0.layer_norm",
        f"{name}.blocks.{{}}.attention.qkv": tuple(f"{layer}.0.SelfAttention.{one}" for one in "qkv"),
        f"{name}.blocks.{{}}.attention.out": f"{layer}.0.SelfAttention.o",
        f"{name}.blocks.{{}}.mlp_norm": f"{layer}.{mlp}.layer_norm",
        f"{name}.blocks.{{}}.mlp.up": f"{layer}.{mlp}.DenseReluDense.wi",
        f"{name}.blocks.{{}}.mlp.gate_up": tuple(f"{layer}.{mlp}.DenseReluDense.wi_{i}" for i in (0, 1)),
        f"{name}.blocks.{{}}.mlp.down": f"{layer}.{mlp}.DenseReluDense.wo",
        f"{name}.sights.bias.table": f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{name}.norm": f"{name}.final_layer_norm",
    }


NAMES: Names = {
    **stack("encoder", 1),
    **stack("decoder", 2),
    "decoder.embeddings.words": Either(WORDS),
    "decoder.blocks.{}.cross_norm": "decoder.block.{}.layer.1.layer_norm",
    "decoder.blocks.{}.cross.query": f"{CROSS}.q",
    "decoder.blocks.{}.cross.kv": (f"{CROSS}.k", f"{CROSS}.v"),
    "decoder.blocks.{}.cross.out": f"{CROSS}.o",
    "decoder.head.linear": Either(("lm_head", *WORDS)),
}
COPIES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
NEVER_USED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
