"""vLLM: its `LLM`, without a server."""

from __future__ import annotations

from vllm import LLM, SamplingParams  # type: ignore[import-not-found, unused-ignore]
from vllm.inputs import TokensPrompt  # type: ignore[import-not-found, unused-ignore]

from tests.benchmarks.peers.workers.measuring import Prompts, measure_decoder
from tests.benchmarks.peers.workers.task import Task


def main(task: Task) -> None:
    engine = LLM(
        model=task.model,
        dtype=task.precision,
        enforce_eager=not task.compiled,
        max_model_len=1024,
        enable_prefix_caching=False,
    )

    def generate(prompts: Prompts, tokens: int) -> None:
        answers = engine.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            SamplingParams(temperature=0, min_tokens=tokens, max_tokens=tokens, ignore_eos=True),
            use_tqdm=False,
        )
        assert all(len(answer.outputs[0].token_ids) == tokens for answer in answers)

    measure_decoder(generate, task)


if __name__ == "__main__":
    main(Task.read())
