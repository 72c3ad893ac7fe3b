"""Multi-LoRA beside a bare engine and stock vLLM."""
