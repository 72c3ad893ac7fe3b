"""The pages: a module each with its `router`, and the navigation that leads to them.

To add a page: write a module with a `router`, add it to ROUTERS and, where the navigation leads to it, a line to LINKS.
"""

from dataclasses import dataclass

from fastapi import APIRouter

from graftwork.console.pages import (
    adapters,
    alias_moves,
    audit,
    datasets,
    jobs,
    overview,
    playground,
    residency,
    signin,
    tenants,
    traffic,
    training,
)
from graftwork.console.visitor import Visitor

ROUTERS: tuple[APIRouter, ...] = (
    signin.router,
    overview.router,
    tenants.router,
    adapters.router,
    alias_moves.router,
    datasets.router,
    training.router,
    jobs.router,
    residency.router,
    traffic.router,
    playground.router,
    audit.router,
)


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of the navigation.

    Attributes:
        label: its text.
        path: where it leads.
        oversight: not shown to tenants.
        changes: not shown to viewers.
    """

    label: str
    path: str
    oversight: bool = False
    changes: bool = False


LINKS: tuple[Link, ...] = (
    Link("Overview", "/"),
    Link("Tenants", "/tenants"),
    Link("Adapters", "/adapters"),
    Link("Data sets", "/datasets"),
    Link("Jobs", "/jobs"),
    Link("Residency", "/residency", oversight=True),
    Link("Traffic", "/traffic"),
    Link("Playground", "/playground", changes=True),
    Link("Audit", "/audit"),
)


def navigation(visitor: Visitor | None) -> list[Link]:
    """Returns what this visitor may go to; nothing before signing in."""
    if visitor is None:
        return []
    return [
        link for link in LINKS if (visitor.oversees or not link.oversight) and (visitor.may_change or not link.changes)
    ]


def section(path: str) -> str:
    """Returns the path of the link that a page belongs to; a tenant's adapters, data sets and jobs have their own."""
    parts = path.split("/")
    inner = f"/{parts[3]}" if parts[1] == "tenants" and len(parts) > 3 else ""
    known = {link.path for link in LINKS}
    return inner if inner in known else f"/{parts[1]}"
