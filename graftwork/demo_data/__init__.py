"""The demo's three tenants and their rows. `make.py` wrote the JSONL files beside it; a test holds the two together."""
