"""What the tensors of BART and its like are called."""

from __future__ import annotations

from models.families.naming import Either, Names


def attention(ours: str, theirs: str) -> Names:
    """Of one stack's self-attention."""
    return {
        f"{ours}.qkv": tuple(f"{theirs}.{one}_proj" for one in "qkv"),
        f"{ours}.out": f"{theirs}.out_proj",
        f"{ours}_norm": f"{theirs}_layer_norm",
    }


def stack(name: str) -> Names:
    """Of the encoder or the decoder."""
    return {
        **attention(f"{name}.blocks.{{}}.attention", f"{name}.layers.{{}}.self_attn"),
        f"{name}.blocks.{{}}.mlp.up": f"{name}.layers.{{}}.fc1",
        f"{name}.blocks.{{}}.mlp.down": f"{name}.layers.{{}}.fc2",
        f"{name}.blocks.{{}}.mlp_norm": f"{name}.layers.{{}}.final_layer_norm",
        f"{name}.embeddings.positions": f"{name}.embed_positions",
        f"{name}.embeddings.norm": f"{name}.layernorm_embedding",
        f"{name}.norm": f"{name}.layer_norm",
    }


CROSS = "decoder.layers.{}.encoder_attn"
NAMES: Names = {
    **stack("encoder"),
    **stack("decoder"),
    "encoder.embeddings.words": "encoder.embed_tokens",
    "decoder.embeddings.words": Either(("decoder.embed_tokens", "shared")),
    "decoder.blocks.{}.cross.query": f"{CROSS}.q_proj",
    "decoder.blocks.{}.cross.kv": (f"{CROSS}.k_proj", f"{CROSS}.v_proj"),
    "decoder.blocks.{}.cross.out": f"{CROSS}.out_proj",
    "decoder.blocks.{}.cross_norm": f"{CROSS}_layer_norm",
    "decoder.head.linear": "lm_head",
    "logit_bias": "final_logits_bias",
}
COPIES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
