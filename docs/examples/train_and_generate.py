"""Train an adapter on your rows, watch it learn, and ask it something.

    python docs/examples/train_and_generate.py rows.jsonl --tenant acme --adapter support --ask "instruction" --input "input"

Finds the services that `graft up` started; GRAFT_TRAINER, GRAFT_SERVING and GRAFT_API_KEY name others.
"""

import argparse

from graftwork import Client, Evaluated, JobNotSucceeded, Recipe, RowsRefused, StateChanged, StepDone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows")
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--ask", required=True)
    parser.add_argument("--input", default="")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    args = parser.parse_args()

    with Client(tenant=args.tenant) as client:
        try:
            data = client.datasets.upload(args.rows)
        except RowsRefused as error:
            for finding in error.findings:
                print(f"line {finding.lines[0] if finding.lines else '-'}: {finding.message} {finding.fix}")
            raise SystemExit(1) from None
        print(f"uploaded {data.rows} rows as {data.id}")

        recipe = Recipe(max_steps=args.max_steps, learning_rate=args.learning_rate)  # None: the service chooses
        cost = client.jobs.estimate(data, recipe=recipe)
        print(f"{cost.steps} steps, about {cost.seconds:.0f} s and {cost.peak_bytes / 2**20:.0f} MiB on {cost.device}")

        job = client.jobs.create(data, args.adapter, recipe=recipe)
        for event in job.watch():
            match event:
                case StateChanged():
                    print(f"{event.state} {event.message}".rstrip())
                case StepDone() if event.step % 20 == 0:
                    print(f"step {event.step}/{event.total_steps}: loss {event.loss:.3f}")
                case Evaluated():
                    print(f"held-out loss {event.loss:.3f}{' (base)' if event.is_base else ''}")
        try:
            done = job.result()
        except JobNotSucceeded as error:
            raise SystemExit(str(error)) from None
        print(f"published {done.version[:12]}, held-out loss {done.base_eval_loss:.3f} -> {done.eval_loss:.3f}")

        answer = client.generate(args.ask, input=args.input, model=args.adapter, temperature=0, max_tokens=64)
        print(f"{args.adapter}: {answer.text.strip()}")


if __name__ == "__main__":
    main()
