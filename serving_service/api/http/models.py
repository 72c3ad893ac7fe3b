"""`/v1/models` in OpenAI's form. Owns the form only."""

from typing import Any

from serving_service.core.catalogue import Model


def model_of(model: Model, tenant: str, base: str, max_model_len: int) -> dict[str, Any]:
    """Writes one model; the base has no parent."""
    is_base = not model.version
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.since.timestamp()) if model.since else 0,
        "owned_by": "graftwork" if is_base else tenant,
        "root": base if is_base else model.version,
        "parent": None if is_base else base,
        "max_model_len": max_model_len,
    }
