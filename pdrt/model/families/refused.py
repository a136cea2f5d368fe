"""Architectures that people may try, and what the decoder would need to run them."""

from __future__ import annotations

EXPERTS = "a mixture of experts"
POST_NORMS = "norms after attention and MLP"

MISSING: dict[tuple[str, str], str] = {
    ("Gemma2ForCausalLM", "gemma2"): f"soft caps on attention scores and logits, and {POST_NORMS}",
    ("Gemma3ForCausalLM", "gemma3_text"): f"{POST_NORMS}, and rotary parameters by layer",
    ("Gemma3ForConditionalGeneration", "gemma3"): f"images, {POST_NORMS}, and rotary parameters "
    "by layer",
    ("MixtralForCausalLM", "mixtral"): EXPERTS,
    ("Qwen2MoeForCausalLM", "qwen2_moe"): EXPERTS,
    ("Qwen3MoeForCausalLM", "qwen3_moe"): EXPERTS,
    ("PhimoeForCausalLM", "phimoe"): EXPERTS,
    ("DeepseekV2ForCausalLM", "deepseek_v2"): f"latent attention and {EXPERTS}",
    ("DeepseekV3ForCausalLM", "deepseek_v3"): f"latent attention and {EXPERTS}",
    ("GptOssForCausalLM", "gpt_oss"): f"attention sinks and {EXPERTS}",
    ("Olmo2ForCausalLM", "olmo2"): f"{POST_NORMS}, and norms over all heads of q and of k",
    ("CohereForCausalLM", "cohere"): "rotation of neighbouring dimensions, and scaled logits",
    ("GraniteForCausalLM", "granite"): "scaled residuals and logits",
    ("GPT2LMHeadModel", "gpt2"): "learned positions",
    ("OPTForCausalLM", "opt"): "learned positions",
    ("BloomForCausalLM", "bloom"): "attention scores with a bias for distance (ALiBi)",
    ("MambaForCausalLM", "mamba"): "a recurrent state in place of attention",
}


def missing(architecture: str) -> str | None:
    """What an architecture needs beyond the decoder; None where it is not known."""
    return next((what for names, what in MISSING.items() if architecture in names), None)
