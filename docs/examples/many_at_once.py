"""Many requests at once with asyncio: several models, a bound on how many run together, what was refused.

python docs/examples/many_at_once.py --tenant acme --models support, "first prompt" "second prompt"
"""

import argparse
import asyncio
from collections import Counter

from graftwork import Answer, AsyncClient, RemoteExhausted, RemoteNotFound


async def run(tenant: str, models: list[str], prompts: list[str], repeats: int, at_once: int) -> None:
    turns = asyncio.Semaphore(at_once)
    refused = Counter[str]()

    async with AsyncClient(tenant=tenant, retries=5) as client:

        async def ask(model: str, prompt: str) -> Answer | None:
            async with turns:
                try:
                    # Over a limit, or while the service starts, it is asked again after the time that it names.
                    return await client.generate(prompt, model=model, temperature=0, max_tokens=16, timeout=120)
                except RemoteExhausted as error:
                    refused[f"over a limit: {error}"] += 1
                except RemoteNotFound as error:
                    refused[str(error)] += 1
                return None

        asked = [(model, prompt) for model in models for prompt in prompts] * repeats
        answers = await asyncio.gather(*(ask(model, prompt) for model, prompt in asked))

    tokens = sum(answer.completion_tokens for answer in answers if answer)
    print(f"{len(asked)} requests, {sum(map(bool, answers))} answers, {tokens} tokens")
    for (model, prompt), answer in list(zip(asked, answers, strict=True))[: len(asked) // repeats]:
        print(f"  {model or '(base)'} {prompt!r}: {answer.text.strip() if answer else 'refused'!r}")
    for reason, count in refused.items():
        print(f"  refused {count} times: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--models", required=True, help="separated by commas; an empty one is the base")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=8)
    args = parser.parse_args()
    asyncio.run(run(args.tenant, args.models.split(","), args.prompts, args.repeats, args.at_once))


if __name__ == "__main__":
    main()
