"""Bring in a version that was trained elsewhere, give it a tenth of the requests, and take it back.

python docs/examples/canary_release.py ./my-peft-folder --tenant acme --adapter support --ask "instruction"
"""

import argparse
from collections import Counter

from graftwork import Client, RemoteConflict, RemoteInvalid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--ask", required=True)
    parser.add_argument("--requests", type=int, default=40)
    args = parser.parse_args()

    with Client(tenant=args.tenant) as client:
        try:
            new = client.adapters.register(args.adapter, args.folder).version
        except RemoteInvalid as error:  # made for another backbone, a rank too high, numbers that are not finite, ...
            raise SystemExit(f"refused: {error}") from None
        print(f"registered {new.digest[:12]}: rank {new.rank} on {', '.join(new.target_modules)}")

        prod = client.adapters.get(args.adapter).aliases["prod"]
        try:
            # The number says which record we have seen: if somebody moved the alias meanwhile, nothing happens.
            client.adapters.split(
                args.adapter, {prod.version: 90, new.digest: 10}, expected_number=prod.number, reason="canary"
            )
        except RemoteConflict as error:
            raise SystemExit(f"somebody else was faster: {error}") from None

        answered = Counter[str]()
        for _ in range(args.requests):
            answer = client.generate(args.ask, model=args.adapter, temperature=0, max_tokens=16)
            answered[answer.version] += 1
        print(f"{answered[prod.version]} requests went to the old version, {answered[new.digest]} to the new one")

        back = client.adapters.roll_back(args.adapter, reason="the canary is over")
        print(f"prod is {back.version[:12]} again")
        for record in client.adapters.history(args.adapter):
            print(f"  {record.number}: {record.version[:12]} {dict(record.split) or ''} {record.reason}")


if __name__ == "__main__":
    main()
