"""Prompts into tokens, with the template that the adapter was trained with.

Owns the choice of template and where an answer ends. Does not own sampling or the engine, nor where a stranger's template runs
(`templates`). The trainer renders through `apply_chat_template` too, so that training and serving cannot differ.
"""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jinja2

from graftwork.template import DEFAULT_CHAT_TEMPLATE, END_OF_TURN
from serving_service.engine.protocol import Message, Prompt, PromptRefused, Rendered, TokenIds
from serving_service.engine.templates import isolate_templates

_SHORT = 1000
"""Characters or tokens. Rendering so few takes about as long as handing them to a thread does on an idle machine; on a busy one
the thread waits for the interpreter until the loop has nothing else to do, and a first token with it."""


class PromptRenderer:
    """Renders for one tokenizer.

    Args:
        tokenizer: of transformers.
        max_model_len: prompt and answer together, in tokens.
    """

    def __init__(self, tokenizer: Any, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._vocabulary = len(tokenizer)
        self._ends = self._end_of_turn()  # once: asking the tokenizer takes as long as rendering a short prompt
        # One thread: off the event loop, because long prompts take milliseconds, and fast tokenizers refuse
        # concurrent use ("Already borrowed").
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._tokenizing = threading.Lock()
        self._isolated = isolate_templates(tokenizer.chat_template, DEFAULT_CHAT_TEMPLATE)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._isolated.close()

    async def render(self, prompt: Prompt, template: str | None) -> Rendered:
        """Renders text, a chat or tokens; see `Engine.render`."""
        template = self.template(template)
        if self._is_short(prompt, template) and self._tokenizing.acquire(blocking=False):
            try:
                return self._render(prompt, template)
            finally:
                self._tokenizing.release()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._render_alone, prompt, template)

    def template(self, of_adapter: str | None) -> str:
        """Returns the template to use: the adapter's, else the tokenizer's, else the project's."""
        return str(of_adapter or self._tokenizer.chat_template or DEFAULT_CHAT_TEMPLATE)

    def _is_short(self, prompt: Prompt, template: str) -> bool:
        """Whether the loop itself may render it. Not where a stranger's template runs in its process, which may take long."""
        if isinstance(prompt, TokenIds):
            return len(prompt.ids) <= _SHORT
        if isinstance(prompt, str):
            return len(prompt) <= _SHORT
        return self._isolated.trusts(template) and sum(len(message.content) for message in prompt) <= _SHORT

    def _render_alone(self, prompt: Prompt, template: str) -> Rendered:
        with self._tokenizing:
            return self._render(prompt, template)

    def _render(self, prompt: Prompt, template: str) -> Rendered:
        if isinstance(prompt, TokenIds):
            self.check_known(prompt.ids)
            ids = prompt.ids
        elif isinstance(prompt, str):
            ids = self._tokenizer(prompt)["input_ids"]
        else:
            # The template writes its own special tokens; adding the tokenizer's would double the first one.
            ids = self._tokenizer(self._through_template(prompt, template), add_special_tokens=False)["input_ids"]
        if not ids:
            raise PromptRefused("the prompt is empty: send at least one token")
        if len(ids) >= self._max_model_len:
            raise PromptRefused(
                f"the prompt has {len(ids)} tokens and the model takes {self._max_model_len} together with the answer: "
                f"send at most {self._max_model_len - 1}"
            )
        stop, stop_token_ids = self.ends(template)
        return Rendered(list(ids), stop, stop_token_ids)

    def check_known(self, ids: Sequence[int]) -> None:
        """Raises PromptRefused for a token that the tokenizer does not know: a model may have rows for more, which nothing has trained."""
        vocabulary = self._vocabulary
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            unknown = next(number for number in ids if not 0 <= number < vocabulary)
            raise PromptRefused(f"token {unknown} is not one of this model's; its tokens are 0 to {vocabulary - 1}")

    def _through_template(self, messages: tuple[Message, ...], template: str) -> str:
        rows = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._tokenizer.apply_chat_template(
                rows, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except jinja2.TemplateError as error:  # templates refuse what they do not know, as 'roles must alternate'
            raise PromptRefused(f"the chat template refused these messages: {error}") from error
        return str(text)

    def ends(self, template: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Texts and tokens that end an answer: where the project's own template ends a turn; other families end with their tokenizer's end token."""
        return self._ends if END_OF_TURN in template else ((), ())

    def _end_of_turn(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        token = self._tokenizer.convert_tokens_to_ids(END_OF_TURN)
        if token is not None and token != self._tokenizer.unk_token_id:
            return (), (token,)
        return (END_OF_TURN,), ()
