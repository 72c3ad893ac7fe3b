"""The pages: a module each with its `router`, and the navigation that leads to them.

To add a page: write a module with a `router`, add it to ROUTERS and, where the navigation leads to it, a line to LINKS.
"""

from dataclasses import dataclass

from fastapi import APIRouter

from graftwork.console.pages import adapters, alias_moves, jobs, overview, signin, tenants
from graftwork.console.visitor import Visitor

ROUTERS: tuple[APIRouter, ...] = (
    signin.router,
    overview.router,
    tenants.router,
    adapters.router,
    alias_moves.router,
    jobs.router,
)


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of the navigation.

    Attributes:
        label: its text.
        path: where it leads.
        operators_only: not shown to tenants.
    """

    label: str
    path: str
    operators_only: bool = False


LINKS: tuple[Link, ...] = (
    Link("Overview", "/"),
    Link("Tenants", "/tenants"),
    Link("Adapters", "/adapters"),
    Link("Jobs", "/jobs"),
)


def navigation(visitor: Visitor | None) -> list[Link]:
    """Returns what this visitor may go to; nothing before signing in."""
    if visitor is None:
        return []
    return [link for link in LINKS if visitor.is_operator or not link.operators_only]
