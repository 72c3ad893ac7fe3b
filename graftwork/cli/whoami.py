"""`graft whoami`: whose key this machine's commands use, and what it may do."""

import typer

from graftwork.cli.session import session_of, table
from graftwork.client.callers import principal_of
from graftwork.rpc.auth import Role

_MAY = {
    Role.OPERATOR: "everything",
    Role.VIEWER: "look at everything; change, generate and take out nothing",
    Role.TENANT: "everything with this tenant's own data sets, jobs, adapters and keys",
}


def whoami(context: typer.Context) -> None:
    """Show whose key the commands use: role, name or tenant, key id, and what it may do."""
    session = session_of(context)
    with session.client() as client:
        caller = principal_of(client.caller())
    session.show(
        {"role": caller.role.value, "tenant": caller.tenant or "", "name": caller.name, "key_id": caller.key_id},
        table(
            ("role", "who", "key id", "may do"),
            [[caller.role.value, caller.tenant or caller.name or "-", caller.key_id, _MAY[caller.role]]],
        ),
    )
