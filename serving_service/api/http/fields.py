"""Which fields a client may send, and how much of each.

Owns the list of what is honoured and of what is refused, and the bounds that keep a request cheap to look at; numbers have
the same limits as over gRPC (`core.sampling`). Types beyond that are checked by the engine's own request models. What is in
neither list is ignored, as OpenAI's newer fields are (`metadata`, `store`, `user`).
"""

from typing import Any

from serving_service.core import constraints
from serving_service.core.errors import InvalidRequest
from serving_service.core.prompt_limits import PromptLimits
from serving_service.core.sampling import MAX_N, MAX_TOP_LOGPROBS, SamplingWish, resolve_sampling
from serving_service.engine.openai_protocol import Kind

_BOTH = (
    "model n seed stop stream stream_options temperature top_p top_k min_p frequency_penalty presence_penalty "
    "repetition_penalty logit_bias logprobs max_tokens echo response_format structured_outputs stop_token_ids "
    "include_stop_str_in_output ignore_eos min_tokens skip_special_tokens spaces_between_special_tokens bad_words "
    "allowed_token_ids prompt_logprobs return_token_ids return_tokens_as_token_ids"
).split()
_CHAT = (
    "messages top_logprobs max_completion_tokens tools tool_choice parallel_tool_calls reasoning_effort "
    "add_generation_prompt continue_final_message"
).split()
HONOURED: dict[Kind, frozenset[str]] = {
    Kind.CHAT: frozenset([*_BOTH, *_CHAT]),
    Kind.COMPLETION: frozenset([*_BOTH, "prompt"]),
}

REFUSED: dict[str, tuple[Any, ...]] = dict.fromkeys(
    # The server's to say: adapter, template, cache, order and place of a request.
    "lora_request chat_template chat_template_kwargs cache_salt request_id session_id kv_transfer_params "
    "ec_transfer_params vllm_xargs extra_args data_parallel_rank documents "
    # Not offered: other media, other ways to search, what would be dropped without a word.
    "prompt_embeds mm_processor_kwargs media_io_kwargs audio functions function_call web_search_options suffix "
    "truncate_prompt_tokens truncation_side logprob_token_ids thinking_token_budget watermarking repetition_detection "
    "stream_interval guided_json guided_regex guided_choice guided_grammar guided_decoding_backend "
    "return_prompt_text return_mm_kwargs".split(),
    (),
) | {
    "priority": (0,),
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "best_of": (1,),
    "add_special_tokens": (),
    "include_reasoning": (True,),
    "return_token_offsets": (False,),
    "routed_experts_prompt_start": (0,),
    "mm_payload": ("tensors",),
}
"""Field -> values that change nothing and are let pass, as null is."""

ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})
MAX_TOOLS = 64
MAX_LIST = 1024
"""Entries of a list or table of tokens."""
_LISTS = ("stop_token_ids", "bad_words", "allowed_token_ids", "logit_bias")
_CONSTRAINTS = ("json", "regex", "choice", "json_object")
_FLOATS = "temperature top_p min_p frequency_penalty presence_penalty repetition_penalty".split()
_INTEGERS = "n seed top_k max_tokens max_completion_tokens min_tokens top_logprobs prompt_logprobs".split()


def read(kind: Kind, body: dict[str, Any], limits: PromptLimits, max_model_len: int) -> dict[str, Any]:
    """Returns the fields to honour.

    Args:
        kind: of call.
        body: JSON, as `body.read_json` gives it.
        limits: of prompts.
        max_model_len: of the model, in tokens.

    Raises:
        InvalidRequest: a field that is refused, missing, of the wrong type or beyond its limit; names it.
    """
    for name in body.keys() & REFUSED.keys():
        if body[name] is not None and not _harmless(body[name], REFUSED[name]):
            raise InvalidRequest(f"{name} is not taken by this service", name)
    taken = {name: value for name, value in body.items() if name in HONOURED[kind] and value is not None}
    if kind is Kind.CHAT:
        _messages(taken.get("messages"), limits)
        _tools(taken)
    else:
        prompts = _prompts(taken.get("prompt"), limits, max_model_len)
        if prompts * _integer(taken, "n", 1) > MAX_N:
            raise InvalidRequest(f"prompt: {prompts} prompts times n are more than {MAX_N} answers", "prompt")
    _lists(taken)
    _constraint(taken)
    _numbers(kind, taken, max_model_len)
    return taken


def _harmless(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)


def _numbers(kind: Kind, body: dict[str, Any], max_model_len: int) -> None:
    for name in _FLOATS:
        _number(body, name)
    for name in _INTEGERS:
        _integer(body, name)
    top_logprobs = body.get("top_logprobs")
    if kind is Kind.COMPLETION:
        if not 0 <= (_integer(body, "logprobs") or 0) <= MAX_TOP_LOGPROBS:
            raise InvalidRequest(f"logprobs: allowed are 0 to {MAX_TOP_LOGPROBS}", "logprobs")
    elif not isinstance(body.get("logprobs", False), bool):
        raise InvalidRequest("logprobs must be true or false", "logprobs")
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most == 0 and body.get("echo") is True and kind is Kind.COMPLETION:
        most = None  # the prompt alone, with its log-probabilities
    wish = SamplingWish(
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        min_p=body.get("min_p"),
        frequency_penalty=body.get("frequency_penalty"),
        presence_penalty=body.get("presence_penalty"),
        repetition_penalty=body.get("repetition_penalty"),
        n=body.get("n"),
        seed=body.get("seed"),
        max_tokens=most,
        stop=_stops(body.get("stop")),
        top_logprobs=top_logprobs,
    )
    resolve_sampling(wish, max_model_len, prefix="")
    if not 0 <= body.get("prompt_logprobs", 0) <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"prompt_logprobs: allowed are 0 to {MAX_TOP_LOGPROBS}", "prompt_logprobs")
    if not 0 <= body.get("min_tokens", 0) <= max_model_len:
        raise InvalidRequest(f"min_tokens: allowed are 0 to {max_model_len}", "min_tokens")
    if not -(2**63) <= body.get("seed", 0) < 2**63 - MAX_N:  # each of n answers counts on from it
        raise InvalidRequest("seed does not fit in 63 bits", "seed")


def _number(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidRequest(f"{name} must be a number", name)


def _integer(body: dict[str, Any], name: str, default: int | None = None) -> Any:
    value = body.get(name, default)
    if value is not None and type(value) is not int:
        raise InvalidRequest(f"{name} must be a whole number", name)
    return value


def _stops(stop: Any) -> tuple[str, ...]:
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts[:MAX_LIST]):
        raise InvalidRequest("stop must be a text or a list of texts", "stop")
    return tuple(texts)


def _lists(body: dict[str, Any]) -> None:
    for name in _LISTS:
        value = body.get(name, [])
        if not isinstance(value, dict if name == "logit_bias" else list) and value != []:
            raise InvalidRequest(f"{name} must be {'a table' if name == 'logit_bias' else 'a list'}", name)
        if len(value) > MAX_LIST:
            raise InvalidRequest(f"{name} has {len(value)} entries; allowed: {MAX_LIST}", name)
    for word in body.get("bad_words", []):
        if not isinstance(word, str) or not 1 <= len(word) <= 256:
            raise InvalidRequest("bad_words: each must be a text of 1 to 256 characters", "bad_words")


def _messages(messages: Any, limits: PromptLimits) -> None:
    if not isinstance(messages, list):
        raise InvalidRequest("messages must be a list", "messages")
    if not 1 <= len(messages) <= limits.max_messages:
        raise InvalidRequest(f"messages: {len(messages)} were given; allowed: 1 to {limits.max_messages}", "messages")
    size = 0
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise InvalidRequest(f"{where} must be an object", "messages")
        if message.get("role") not in ROLES:
            raise InvalidRequest(f"{where}.role is unknown; allowed: {', '.join(sorted(ROLES))}", "messages")
        if message.get("content") is None and message["role"] != "assistant":
            raise InvalidRequest(f"{where}.content is missing", "messages")
        size += sum(len(text.encode()) for text in _texts(message.get("content"), where))
        constraints.check_size(message.get("tool_calls"), f"{where}.tool_calls")
    _prompt_size(size, "messages", limits)


def _texts(content: Any, where: str) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or len(content) > MAX_LIST:
        raise InvalidRequest(f"{where}.content must be a text or a list of parts", "messages")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{where}.content: only parts of type 'text' are taken", "messages")
        texts.append(part["text"])
    return texts


def _prompts(prompt: Any, limits: PromptLimits, max_model_len: int) -> int:
    """Returns how many there are."""
    several = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], str | list)
    prompts = prompt if isinstance(prompt, list) and several else [prompt]
    if len(prompts) > MAX_N:
        raise InvalidRequest(f"prompt: {len(prompts)} prompts were given; allowed: {MAX_N}", "prompt")
    size = 0
    for one in prompts:
        if isinstance(one, str) and one:
            size += len(one.encode())
        elif not isinstance(one, list) or not one or not all(type(number) is int and number >= 0 for number in one):
            raise InvalidRequest("prompt must be a text that is not empty, tokens, or a list of one kind", "prompt")
        elif len(one) >= max_model_len:
            raise InvalidRequest(
                f"prompt has {len(one)} tokens; the model takes {max_model_len} with the answer", "prompt"
            )
    if several and len({type(one) for one in prompts}) > 1:
        raise InvalidRequest("prompt must be a list of one kind, texts or tokens", "prompt")
    _prompt_size(size, "prompt", limits)
    return len(prompts)


def _prompt_size(size: int, field: str, limits: PromptLimits) -> None:
    if size > limits.max_bytes:
        raise InvalidRequest(f"{field}: {size} bytes of text, at most {limits.max_bytes} are taken", field)


def _tools(body: dict[str, Any]) -> None:
    tools = body.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list) or len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"tools must be a list of at most {MAX_TOOLS}", "tools")
    constraints.check_size(tools, "tools")
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(f"tools[{number}] must be a function with a name", "tools")
        if (parameters := function.get("parameters")) is not None:
            constraints.json_schema(parameters, f"tools[{number}].function.parameters")


def _constraint(body: dict[str, Any]) -> None:
    form = body.get("response_format")
    if form is not None:
        if not isinstance(form, dict) or form.get("type") not in ("text", "json_object", "json_schema"):
            raise InvalidRequest("response_format.type must be text, json_object or json_schema", "response_format")
        if form["type"] == "json_schema":
            schema = form.get("json_schema")
            if not isinstance(schema, dict) or not isinstance(schema.get("name"), str):
                raise InvalidRequest("response_format.json_schema must have a name and a schema", "response_format")
            constraints.json_schema(schema.get("schema"), "response_format")
    wanted = body.get("structured_outputs")
    if wanted is None:
        return
    given = [name for name in wanted if wanted[name] is not None] if isinstance(wanted, dict) else []
    if len(given) != 1 or given[0] not in _CONSTRAINTS or form is not None:
        raise InvalidRequest(
            f"structured_outputs must hold one of {', '.join(_CONSTRAINTS)}, and stand without response_format",
            "structured_outputs",
        )
    match given[0]:
        case "json":
            constraints.json_schema(wanted["json"], "structured_outputs")
        case "regex":
            constraints.regex(wanted["regex"], "structured_outputs")
        case "choice":
            constraints.choices(wanted["choice"], "structured_outputs")
