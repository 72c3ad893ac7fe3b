"""The engine behind a small protocol. Import the real one lazily: it brings torch and vLLM."""
