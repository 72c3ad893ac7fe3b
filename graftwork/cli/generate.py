"""`graft generate`: one answer from the base or from a tenant's adapter."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.session import session_of
from graftwork.client.generation import collect
from graftwork.template import user_content
from graftwork.v1 import serving_pb2 as pb


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="The user's turn, or a row's instruction; '-' reads standard input.")],
    input_text: Annotated[
        str, typer.Option("--input", "-i", help="A row's input; joined to the prompt as in training.")
    ] = "",
    adapter: Annotated[
        str, typer.Option("--adapter", "-a", help="adapter, adapter:alias or adapter@version; empty = the base.")
    ] = "",
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", envvar="GRAFT_TENANT", help="Whose.")] = None,
    raw: Annotated[bool, typer.Option(help="Send the prompt as it is, without the chat template.")] = False,
    system: Annotated[str, typer.Option(help="A system turn before the prompt.")] = "",
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 = always the likeliest token.")] = 0.0,
    top_p: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Ends the answer; repeat for several.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, max=16, help="Answers; more than 1 need a temperature.")] = 1,
    json_schema: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File with the JSON schema of the answer.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="What the whole answer must match.")] = None,
    choice: Annotated[list[str] | None, typer.Option(help="One of these is the answer; repeat for several.")] = None,
) -> None:
    """Generate one answer, streamed as it comes."""
    session = session_of(context)
    text = sys.stdin.read() if prompt == "-" else prompt
    for what, given in (("the prompt", text), ("--input", input_text), ("--system", system)):
        _check_text(what, given)
    request = pb.GenerateRequest(
        parent=f"tenants/{session.tenant(tenant)}" if adapter or tenant else "",
        model=adapter,
        sampling=pb.Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop or []),
    )
    if count > 1:
        request.sampling.n = count
    _constrain(request.sampling, json_schema, regex, choice)
    if raw:
        request.prompt = text
    else:
        turns = [pb.Message(role="system", content=system)] if system else []
        request.chat.messages.extend([*turns, pb.Message(role="user", content=user_content(text, input_text))])
    with session.client() as client:
        pieces = []
        for piece in client.stream_generate(request):
            pieces.append(piece)
            if not session.as_json and count == 1 and piece.WhichOneof("part") == "text":
                session.out.print(piece.text, end="", markup=False)
        answer = collect(pieces)
    if not session.as_json:
        # Several come mixed, so they are shown when they are there.
        for number, one in enumerate(answer.choices if count > 1 else [], 1):
            session.out.print(f"{number}: {one.text}", markup=False)
        session.out.print(end="" if count > 1 else "\n")
        found = f" found on {answer.tier}" if answer.tier else ""
        session.note(
            f"[{answer.route}{' ' + answer.version[:12] if answer.version else ''}{found}; "
            f"{answer.prompt_tokens}+{answer.completion_tokens} tokens, first after {answer.first_token_ms:.0f} ms, "
            f"{answer.total_ms:.0f} ms in all]"
        )
    session.show(asdict(answer))


def _constrain(sampling: pb.Sampling, schema: Path | None, regex: str | None, choice: list[str] | None) -> None:
    if sum(given is not None for given in (schema, regex, choice or None)) > 1:
        raise typer.BadParameter("give one of --json-schema, --regex and --choice")
    if schema is not None:
        try:
            sampling.json_schema = schema.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{schema} cannot be read as text: {error}") from None
    elif regex is not None:
        sampling.regex = regex
    elif choice:
        sampling.choices.texts.extend(choice)


def _check_text(what: str, text: str) -> None:
    """Python hides bytes that are not UTF-8 in lone surrogates, which no message can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter(f"{what} is not UTF-8 text") from None
