"""pdrt: LLM inference with prefill and decode in separate processes that share KV pages."""
