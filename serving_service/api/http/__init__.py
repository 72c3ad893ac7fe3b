"""The OpenAI-compatible HTTP API: read, bound, authenticate, delegate to the core, answer."""
