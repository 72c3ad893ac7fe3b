"""Which PEFT settings the store accepts, and their normal form.

Owns adapter_config.json. Refuses what vLLM would refuse or, worse, silently serve as something else. The normal form
holds only what changes the adapter's output, without paths and without PEFT's set order, so that the same adapter
always has the same version digest. Does not own the tensors (`adapter_store.peft_check`).
"""

import json
import re
from pathlib import Path
from typing import Any

from adapter_store.errors import InvalidAdapter

MAX_BYTES = 1 << 20
# Anything set here changes what the adapter computes and is not implemented by vLLM (vllm/lora/peft_helper.py).
_REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "lora_bias": "a LoRA bias",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "LoRA on bare parameters",
    "arrow_config": "Arrow routing",
    "megatron_config": "Megatron layers",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
# These say how training began or where the base came from; the saved tensors already hold the result.
_WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
})  # fmt: skip
_NORMAL = frozenset({
    "peft_type", "r", "lora_alpha", "target_modules", "bias", "use_rslora", "fan_in_fan_out", "rank_pattern",
    "alpha_pattern", "init_lora_weights",
})  # fmt: skip
# Other text values (PiSSA, OLoRA, LoftQ, ...) change the base's weights on load, which vLLM does not.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_PLAIN_PATTERN = re.compile(r"[A-Za-z0-9_.]+", re.ASCII)


def read_config(file: Path) -> dict[str, Any]:
    """Reads and checks adapter_config.json.

    Returns:
        The normal form: r, lora_alpha, use_rslora, fan_in_fan_out, rank_pattern, alpha_pattern.

    Raises:
        InvalidAdapter: missing, not JSON, or a setting that vLLM does not serve.
    """
    try:
        with file.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
        settings = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InvalidAdapter(f"{file.name} is missing or not a JSON object of at most {MAX_BYTES} bytes")
    _check_kind(settings)
    return {
        "peft_type": "LORA",
        "r": _rank(settings.get("r"), "r"),
        "lora_alpha": _alpha(settings.get("lora_alpha"), "lora_alpha"),
        "use_rslora": _flag(settings, "use_rslora"),
        "fan_in_fan_out": _flag(settings, "fan_in_fan_out"),
        "rank_pattern": {key: _rank(value, "rank_pattern") for key, value in _pattern(settings, "rank_pattern")},
        "alpha_pattern": {key: _alpha(value, "alpha_pattern") for key, value in _pattern(settings, "alpha_pattern")},
    }


def stored_config(config: dict[str, Any], target_modules: tuple[str, ...], base_model: str) -> dict[str, Any]:
    """Returns what is stored as adapter_config.json: the normal form and what PEFT and vLLM need to load it."""
    return config | {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(target_modules),
        "task_type": "CAUSAL_LM",
    }


def pattern_value(pattern: dict[str, Any], module: str, default: Any) -> Any:
    """Returns a module's rank or alpha: the first key that is a dotted suffix of its path wins, as in PEFT."""
    return next((value for key, value in pattern.items() if f".{module}".endswith(f".{key}")), default)


def _check_kind(settings: dict[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise InvalidAdapter(f"peft_type is {settings.get('peft_type')!r:.40}; only LORA adapters are served")
    for key, name in _REFUSED.items():
        if settings.get(key):
            raise InvalidAdapter(f"the adapter uses {name} ({key}), which is not served; train without it")
    if settings.get("bias", "none") != "none":
        raise InvalidAdapter(f"bias is {settings['bias']!r:.40}; only 'none' is served")
    init = settings.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise InvalidAdapter(
            f"init_lora_weights={init!r:.40} changes the base's weights on load; convert to plain LoRA"
        )
    known = _REFUSED.keys() | _WITHOUT_EFFECT | _NORMAL
    if unknown := sorted(key for key, value in settings.items() if value and key not in known):
        raise InvalidAdapter(f"adapter_config.json sets {', '.join(unknown)!s:.200}, which this version does not know")


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or value < 1:
        raise InvalidAdapter(f"{name} holds {value!r:.40}; a rank is an integer above 0")
    return value


def _alpha(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise InvalidAdapter(f"{name} holds {value!r:.40}; alpha is a number above 0")
    # 16 and 16.0 are one setting and must be one version
    return int(value) if float(value).is_integer() else float(value)


def _flag(settings: dict[str, Any], key: str) -> bool:
    value = settings.get(key, False)
    if value is not None and not isinstance(value, bool):
        raise InvalidAdapter(f"{key} is {value!r:.40}; it is true or false")
    return bool(value)


def _pattern(settings: dict[str, Any], key: str) -> list[tuple[str, Any]]:
    value = settings.get(key) or {}
    # PEFT and vLLM treat keys as regular expressions: one that backtracks for minutes would stall the serving engine.
    if not isinstance(value, dict) or not all(_PLAIN_PATTERN.fullmatch(name) for name in value):
        raise InvalidAdapter(f"{key} must map plain module names to numbers; regular expressions are not accepted")
    # The first match would win, and stored JSON is sorted by key: overlapping keys could change their meaning.
    if any(one != other and one.endswith(f".{other}") for one in value for other in value):
        raise InvalidAdapter(f"{key} has keys that match the same module; name each module once")
    return list(value.items())
