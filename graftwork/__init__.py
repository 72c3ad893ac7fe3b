"""Graftwork: one frozen backbone, many grafted LoRA adapters.

This package is what users and both services share. It imports no torch, vllm or transformers.
"""

__version__ = "0.1.0"
