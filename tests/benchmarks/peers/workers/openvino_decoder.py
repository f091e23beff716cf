"""OpenVINO GenAI: its pipeline with continuous batching, straight from a GGUF file."""

from __future__ import annotations

import numpy as np
import openvino  # type: ignore[import-not-found, unused-ignore]
import openvino_genai  # type: ignore[import-not-found, unused-ignore]

from tests.benchmarks.peers.workers.measuring import Prompts, measure_decoder
from tests.benchmarks.peers.workers.task import Task

CACHE_GB = 2


def main(task: Task) -> None:
    scheduling = openvino_genai.SchedulerConfig()
    scheduling.cache_size = CACHE_GB
    scheduling.max_num_seqs = 32
    scheduling.enable_prefix_caching = False
    hints = {"INFERENCE_PRECISION_HINT": task.precision, "INFERENCE_NUM_THREADS": task.threads}
    pipeline = openvino_genai.LLMPipeline(task.model, "CPU", scheduler_config=scheduling, **hints)

    def generate(prompts: Prompts, tokens: int) -> None:
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        wanted = openvino_genai.GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, ignore_eos=True, do_sample=False
        )
        answers = pipeline.generate(inputs, wanted)
        assert all(len(answer) == tokens for answer in answers.tokens)

    measure_decoder(generate, task)


if __name__ == "__main__":
    main(Task.read())
