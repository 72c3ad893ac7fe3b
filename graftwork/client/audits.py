"""Looking the audit log through with every service that writes it: each vouches for its own chain of entries only."""

from collections.abc import Sequence

from graftwork.v1 import registry_pb2 as pb


def together(reports: Sequence[pb.AuditReport]) -> pb.AuditReport:
    """Makes one report of what several services found in the same log.

    A chain counts as vouched for when one of them does. What is wrong with it is told by that one, which knows where the chain
    ends; each problem once.
    """
    made = pb.AuditReport()
    vouched = {chain.writer: at for at, report in enumerate(reports) for chain in report.chains if chain.vouched}
    chains: dict[str, pb.AuditChain] = {}
    for at, report in enumerate(reports):
        made.entries = max(made.entries, report.entries)
        made.unchained = max(made.unchained, report.unchained)
        for chain in report.chains:
            if chain.vouched or chain.writer not in chains:
                chains[chain.writer] = chain
        for problem in report.problems:
            if vouched.get(problem.writer, at) == at and problem not in made.problems:
                made.problems.append(problem)
    made.chains.extend(sorted(chains.values(), key=lambda chain: -chain.create_time.ToNanoseconds()))
    return made
