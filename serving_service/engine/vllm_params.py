"""Our sampling parameters as vLLM's, and its log-probabilities as ours. Owns no limits (`core.sampling`)."""

from collections.abc import Sequence
from typing import Any

from serving_service.engine.grammars import structured_outputs
from serving_service.engine.protocol import Rendered, Sampling, TokenScores


def params_of(rendered: Rendered, sampling: Sampling) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        # The template's end of a turn is an end token, too, whatever the tokenizer calls it.
        stop=[*sampling.stop, *(() if sampling.ignore_eos else rendered.stop)],
        stop_token_ids=[] if sampling.ignore_eos else list(rendered.stop_token_ids),
        n=sampling.n,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        min_p=sampling.min_p,
        ignore_eos=sampling.ignore_eos,
        structured_outputs=structured_outputs(sampling.constraint),
        # 0: of the token itself, and of no alternatives.
        logprobs=sampling.top_logprobs if sampling.logprobs else None,
        prompt_logprobs=0 if sampling.prompt_logprobs else None,
        output_kind=RequestOutputKind.DELTA,
    )


def scores_of(token_ids: Sequence[int], logprobs: Any, top: int = 0) -> TokenScores | None:
    """Reads vLLM's form: for each position a table from token to its entry, which holds at least the token that is there."""
    if logprobs is None:
        return None
    ids = tuple(token_ids)
    own = tuple(entry[number].logprob for number, entry in zip(ids, logprobs, strict=True))
    return TokenScores(ids, own, tuple(_likeliest(entry, top) for entry in logprobs) if top else ())


def _likeliest(entry: Any, count: int) -> tuple[tuple[int, float], ...]:
    """The token that was drawn is in the table also when it is not among the likeliest: its rank tells."""
    best = [(score.rank, number, score.logprob) for number, score in entry.items() if score.rank <= count]
    return tuple((number, logprob) for _, number, logprob in sorted(best))


def prompt_scores_of(token_ids: Sequence[int], logprobs: Any) -> TokenScores | None:
    """As `scores_of`; vLLM sends them once, on the first output, with None for the first token. Later outputs have []."""
    return scores_of(token_ids[1:], logprobs[1:]) if logprobs else None
