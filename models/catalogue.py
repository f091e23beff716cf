"""What somebody who chooses a model wants to know of each family that is supported. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    DECODER = "decoder"
    ENCODER = "encoder"
    SEQ2SEQ = "encoder-decoder"


@dataclass(frozen=True, slots=True)
class Entry:
    """`choices`: what models of the family are made of, in the words of `config.py` and `positions.py`."""

    kind: Kind
    title: str
    examples: tuple[str, ...]  # on the Hugging Face hub
    choices: str


# By `model_type`, in the order in which they are shown.
CATALOGUE: Mapping[str, Entry] = {
    "gpt2": Entry(
        Kind.DECODER,
        "GPT-2",
        ("openai-community/gpt2", "distilbert/distilgpt2"),
        "layer norm; learned; pre; plain MLP",
    ),
    "gpt_neo": Entry(
        Kind.DECODER, "GPT-Neo", ("EleutherAI/gpt-neo-125m",), "layer norm; learned; pre; plain MLP; windows"
    ),
    "gptj": Entry(
        Kind.DECODER, "GPT-J", ("EleutherAI/gpt-j-6b",), "layer norm; rotary; parallel shared; plain MLP"
    ),
    "gpt_neox": Entry(
        Kind.DECODER,
        "GPT-NeoX, Pythia",
        ("EleutherAI/pythia-160m",),
        "layer norm; rotary; parallel, pre; plain MLP",
    ),
    "gpt_bigcode": Entry(
        Kind.DECODER,
        "StarCoder 1",
        ("bigcode/starcoderbase-1b",),
        "layer norm; learned; pre; plain MLP; grouped queries",
    ),
    "opt": Entry(
        Kind.DECODER,
        "OPT, the open shape of GPT-3",
        ("facebook/opt-125m",),
        "layer norm, layer norm bare; learned; post, pre; plain MLP",
    ),
    "bloom": Entry(Kind.DECODER, "BLOOM", ("bigscience/bloom-560m",), "layer norm; alibi; pre; plain MLP"),
    "falcon": Entry(
        Kind.DECODER,
        "Falcon",
        ("tiiuae/falcon-7b",),
        "layer norm; alibi, rotary; parallel, parallel shared, pre; plain MLP; grouped queries",
    ),
    "cohere": Entry(
        Kind.DECODER,
        "Command R, in the shape of PaLM",
        ("CohereLabs/c4ai-command-r-v01",),
        "layer norm scaled; rotary; parallel shared; gated MLP; grouped queries; query-key norm",
    ),
    "llama": Entry(
        Kind.DECODER,
        "LLaMA 1-3, SmolLM2, TinyLlama",
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "meta-llama/Llama-3.2-1B"),
        "rms norm; rotary; pre; gated MLP; grouped queries",
    ),
    "smollm3": Entry(
        Kind.DECODER,
        "SmolLM3",
        ("HuggingFaceTB/SmolLM3-3B",),
        "rms norm; rotary; pre; gated MLP; grouped queries; windows",
    ),
    "mistral": Entry(
        Kind.DECODER,
        "Mistral",
        ("mistralai/Mistral-7B-v0.3",),
        "rms norm; rotary; pre; gated MLP; grouped queries; windows",
    ),
    "ministral": Entry(
        Kind.DECODER,
        "Ministral",
        ("mistralai/Ministral-8B-Instruct-2410",),
        "rms norm; rotary; pre; gated MLP; grouped queries; windows",
    ),
    "qwen2": Entry(
        Kind.DECODER,
        "Qwen 1.5, 2, 2.5",
        ("Qwen/Qwen2.5-0.5B-Instruct",),
        "rms norm; rotary; pre; gated MLP; grouped queries; windows",
    ),
    "qwen3": Entry(
        Kind.DECODER,
        "Qwen3",
        ("Qwen/Qwen3-0.6B",),
        "rms norm; rotary; pre; gated MLP; grouped queries; query-key norm; windows",
    ),
    "gemma": Entry(
        Kind.DECODER,
        "Gemma 1",
        ("google/gemma-2b",),
        "rms norm offset; rotary; pre; gated MLP; grouped queries",
    ),
    "gemma2": Entry(
        Kind.DECODER,
        "Gemma 2",
        ("google/gemma-2-2b-it",),
        "rms norm offset; rotary; sandwich; gated MLP; grouped queries; soft caps; windows",
    ),
    "gemma3_text": Entry(
        Kind.DECODER,
        "Gemma 3, text",
        ("google/gemma-3-270m-it",),
        "rms norm offset; rotary; sandwich; gated MLP; grouped queries; query-key norm; soft caps; windows",
    ),
    "phi": Entry(
        Kind.DECODER,
        "Phi 1-2",
        ("microsoft/phi-2",),
        "layer norm; rotary; parallel shared; plain MLP; grouped queries; query-key norm",
    ),
    "phi3": Entry(
        Kind.DECODER,
        "Phi 3, 4",
        ("microsoft/Phi-3-mini-4k-instruct",),
        "rms norm; rotary; pre; gated MLP; grouped queries; windows",
    ),
    "stablelm": Entry(
        Kind.DECODER,
        "StableLM 2",
        ("stabilityai/stablelm-2-1_6b",),
        "layer norm; rotary; parallel shared, pre; gated MLP; grouped queries; query-key norm",
    ),
    "olmo": Entry(
        Kind.DECODER,
        "OLMo 1",
        ("allenai/OLMo-1B-hf",),
        "layer norm bare; rotary; pre; gated MLP; grouped queries",
    ),
    "olmo2": Entry(
        Kind.DECODER,
        "OLMo 2",
        ("allenai/OLMo-2-0425-1B",),
        "rms norm; rotary; output; gated MLP; grouped queries; query-key norm",
    ),
    "olmo3": Entry(
        Kind.DECODER,
        "OLMo 3",
        ("allenai/Olmo-3-7B-Instruct",),
        "rms norm; rotary; output; gated MLP; grouped queries; query-key norm; windows",
    ),
    "bert": Entry(
        Kind.ENCODER,
        "BERT, MiniLM, BGE, E5, GTE",
        ("google-bert/bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"),
        "layer norm; learned; post; plain MLP",
    ),
    "roberta": Entry(
        Kind.ENCODER, "RoBERTa", ("FacebookAI/roberta-base",), "layer norm; learned; post; plain MLP"
    ),
    "xlm-roberta": Entry(
        Kind.ENCODER,
        "XLM-R, multilingual E5, BGE-M3",
        ("FacebookAI/xlm-roberta-base", "intfloat/multilingual-e5-base"),
        "layer norm; learned; post; plain MLP",
    ),
    "camembert": Entry(
        Kind.ENCODER, "CamemBERT", ("almanach/camembert-base",), "layer norm; learned; post; plain MLP"
    ),
    "distilbert": Entry(
        Kind.ENCODER,
        "DistilBERT",
        ("distilbert/distilbert-base-uncased",),
        "layer norm; learned; post; plain MLP",
    ),
    "albert": Entry(
        Kind.ENCODER,
        "ALBERT",
        ("albert/albert-base-v2",),
        "layer norm; learned; post; plain MLP; shared layers",
    ),
    "electra": Entry(
        Kind.ENCODER,
        "ELECTRA",
        ("google/electra-small-discriminator",),
        "layer norm; learned; post; plain MLP",
    ),
    "mpnet": Entry(
        Kind.ENCODER,
        "MPNet",
        ("sentence-transformers/all-mpnet-base-v2",),
        "layer norm; learned, relative; post; plain MLP",
    ),
    "deberta-v2": Entry(
        Kind.ENCODER,
        "DeBERTa 2, 3",
        ("microsoft/deberta-v3-base",),
        "layer norm; disentangled, learned; post; plain MLP",
    ),
    "modernbert": Entry(
        Kind.ENCODER,
        "ModernBERT",
        ("answerdotai/ModernBERT-base",),
        "layer norm, layer norm scaled; rotary; pre; gated MLP; windows",
    ),
    "nomic_bert": Entry(
        Kind.ENCODER,
        "Nomic Embed",
        ("nomic-ai/nomic-embed-text-v1.5",),
        "layer norm; rotary; post; gated MLP",
    ),
    "t5": Entry(
        Kind.SEQ2SEQ,
        "T5, Flan-T5",
        ("google-t5/t5-small", "google/flan-t5-small"),
        "rms norm; relative; pre; gated, plain MLP",
    ),
    "mt5": Entry(Kind.SEQ2SEQ, "mT5", ("google/mt5-small",), "rms norm; relative; pre; gated, plain MLP"),
    "bart": Entry(Kind.SEQ2SEQ, "BART", ("facebook/bart-large-cnn",), "layer norm; learned; post; plain MLP"),
    "mbart": Entry(
        Kind.SEQ2SEQ,
        "mBART",
        ("facebook/mbart-large-50-many-to-many-mmt",),
        "layer norm; learned; pre; plain MLP",
    ),
    "pegasus": Entry(
        Kind.SEQ2SEQ, "Pegasus", ("google/pegasus-xsum",), "layer norm; sinusoidal; pre; plain MLP"
    ),
    "marian": Entry(
        Kind.SEQ2SEQ,
        "Marian (OPUS-MT), the Transformer of 2017",
        ("Helsinki-NLP/opus-mt-en-de",),
        "layer norm; sinusoidal; post; plain MLP",
    ),
    "m2m_100": Entry(
        Kind.SEQ2SEQ,
        "M2M100, NLLB",
        ("facebook/nllb-200-distilled-600M",),
        "layer norm; sinusoidal; pre; plain MLP",
    ),
}
