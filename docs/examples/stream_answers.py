"""Show answers while they come: a chat, an answer that must follow a JSON schema, and one that is cut short.

python docs/examples/stream_answers.py --tenant acme --model support "instruction"
"""

import argparse
import json

from graftwork import Client, Message

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--model", default="", help="adapter, adapter:alias or adapter@digest; empty: the base")
    args = parser.parse_args()

    with Client(tenant=args.tenant, timeout=30) as client:
        chat = [Message("user", args.prompt)]
        with client.stream(chat, model=args.model, temperature=0, max_tokens=64) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
            answer = stream.answer()
        took = answer.timings
        print(f"\n[{answer.route}, first text after {took.first_token_ms:.0f} ms, {answer.completion_tokens} tokens]")

        strict = client.generate(args.prompt, model=args.model, json_schema=SCHEMA, temperature=0)
        print(f"as JSON: {json.loads(strict.text)}")

        # Leaving the block stops the generation, and frees what it held.
        with client.stream(args.prompt, model=args.model, ignore_eos=True, max_tokens=200, timeout=60) as stream:
            beginning = str(next(stream))
        print(f"stopped after {len(beginning)} characters")


if __name__ == "__main__":
    main()
