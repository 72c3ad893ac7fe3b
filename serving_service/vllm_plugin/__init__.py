"""What runs inside vLLM's worker process. Nothing of the service may import this at run time; vLLM does, by name."""
