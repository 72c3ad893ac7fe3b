"""How findings, previews and figures of data sets look on a terminal."""

from collections.abc import Iterable

from rich.text import Text

from graftwork.cli.session import Session, table
from graftwork.v1 import common_pb2
from graftwork.v1 import trainer_pb2 as pb

_STYLES = {
    common_pb2.Finding.LEVEL_ERROR: "bold red",
    common_pb2.Finding.LEVEL_WARNING: "yellow",
    common_pb2.Finding.LEVEL_INFO: "dim",
}


def level_name(level: common_pb2.Finding.Level) -> str:
    """`error` for LEVEL_ERROR."""
    return common_pb2.Finding.Level.Name(level).removeprefix("LEVEL_").lower()


def has_errors(findings: Iterable[common_pb2.Finding]) -> bool:
    """Whether one of them is an error."""
    return any(it.level == common_pb2.Finding.LEVEL_ERROR for it in findings)


def print_findings(session: Session, findings: Iterable[common_pb2.Finding]) -> None:
    """Prints a table: level, lines, what, what to do. To standard error with --json, whose output is another one."""
    rows = [
        [Text(level_name(it.level), _STYLES.get(it.level, "")), _lines(it), it.count or "-", it.message, it.fix or "-"]
        for it in findings
    ]
    if rows:
        session.show_table(table(("level", "lines", "rows", "what", "what to do"), rows))


def _lines(finding: common_pb2.Finding) -> str:
    more = ", ..." if finding.count > len(finding.lines) else ""
    return ", ".join(map(str, finding.lines)) + more if finding.lines else "-"


def print_report(session: Session, report: pb.DatasetReport) -> None:
    """Prints what looking a data set through has found."""
    print_findings(session, report.findings)
    if report.preview:
        source = "the backbone's own chat template" if report.template == "tokenizer" else "the project's template"
        session.say(Text(f"\nAs the model sees it, with {source}; what is marked is what the loss counts", "bold"))
    for row in report.preview:
        cut = f", cut from {row.full_tokens}" if row.full_tokens > row.tokens else ""
        session.say(Text(f"line {row.line}: {row.tokens} tokens{cut}", "dim"))
        text = Text()
        for span in row.spans:
            # Without colours the marks alone tell what is supervised.
            text.append(f"⟦{span.text}⟧" if span.supervised else span.text, "green" if span.supervised else "dim")
        session.say(text)
    if report.figures.rows:
        session.show_table(table(("", ""), figure_rows(report.figures)))


def figure_rows(figures: pb.DatasetFigures) -> list[list[object]]:
    """Lines about a data set's lengths."""
    about = f" (within {figures.tokens_error:.1%}, from {figures.sampled_rows:,} rows)" if figures.tokens_error else ""
    share = figures.supervised_tokens / figures.tokens if figures.tokens else 0
    return [
        ["rows", f"{figures.rows:,}"],
        ["tokens", f"{figures.tokens:,}{about}"],
        ["of these supervised", f"{figures.supervised_tokens:,} ({share:.0%})"],
        ["tokens of a row", f"median {figures.median}, 95 % up to {figures.percentile_95}, longest {figures.longest}"],
        [f"cut to {figures.max_length} tokens", f"{figures.cut_rows:,} rows"],
    ]
