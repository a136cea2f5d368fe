"""transformers' `generate` as its manual shows it: one batch, greedy, default attention (SDPA).

A wave is one batch from its first step to its last: the best case for a library without a
scheduler, since all prompts have one length and nothing is padded.
"""

from __future__ import annotations

import time

import torch
from protocol import Generate, Job, Tokens, serve
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList


class _Clock(StoppingCriteria):
    """Is asked after each step whether to stop; notes when that was."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        self.moments.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)  # goes on


def load(job: Job) -> Generate:
    torch.set_num_threads(job["threads"])
    dtype = getattr(torch, job["dtype"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype, local_files_only=True)
    model.generation_config.eos_token_id = None  # ignore the end of text, as the others do

    def generate(prompts: Tokens, max_tokens: int) -> tuple[Tokens, list[float]]:
        input_ids, clock = torch.tensor(prompts), _Clock()
        with torch.inference_mode():
            output = model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return output[:, input_ids.shape[1] :].tolist(), clock.moments

    return generate


if __name__ == "__main__":
    serve(load)
