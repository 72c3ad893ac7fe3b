"""Where the services are, which key to show, and which authority to trust: from arguments, the environment or the home folder.

Owns the order in which these are asked. Does not own the home folder's layout (`graftwork.local.home`).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from graftwork.client.channel import Identity, tls_identity
from graftwork.client.errors import NOWHERE
from graftwork.local.errors import NotRunning
from graftwork.local.home import Home, ServiceName
from graftwork.rpc.tls import TlsIncomplete

File = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Places:
    """What a connection needs.

    Attributes:
        trainer, serving: `host:port`.
        api_key: an operator's or a tenant's; None sends none.
        tls_ca: PEM file of the authority to trust; None speaks plain text.
        identity: certificate to show to services that ask for one.
    """

    trainer: str
    serving: str
    api_key: str | None = field(repr=False)
    tls_ca: Path | None = None
    identity: Identity | None = None

    @property
    def tenant(self) -> str | None:
        """The tenant that the key belongs to; None for an operator's."""
        parts = (self.api_key or "").split("_")
        return parts[1] if len(parts) == 3 and parts[0] == "gw" else None


def find_places(
    trainer: str | None,
    serving: str | None,
    api_key: str | None,
    tls_ca: File | None,
    home: File | None,
    tls_certificate: File | None = None,
    tls_key: File | None = None,
) -> Places:
    """Fills in what was not given: GRAFT_TRAINER, GRAFT_SERVING, GRAFT_API_KEY, GRAFT_TLS_CA, GRAFT_TLS_CERTIFICATE and
    GRAFT_TLS_KEY, then the home folder.

    The home's operator key is used only with the home's own services: a key must not be sent to an address that it was
    not made for.

    Raises:
        NotRunning: neither service's address is known.
        TlsIncomplete: a certificate without its key, or the other way round.
    """
    local = Home.open(Path(home) if home is not None else None)
    given = {ServiceName.TRAINER: trainer, ServiceName.SERVING: serving}
    named = {service: given[service] or os.environ.get(f"GRAFT_{service.name}") for service in ServiceName}
    found = {service: named[service] or local.address(service) for service in ServiceName}
    if not any(found.values()):
        raise NotRunning(
            f"no service is up for {local.root}: start them with `graft up`, or say where they are with "
            "Client(trainer=..., serving=...) or GRAFT_TRAINER and GRAFT_SERVING"
        )
    key = api_key or os.environ.get("GRAFT_API_KEY")
    if not key and not any(named.values()):
        key = local.operator_key()
    authority = tls_ca or os.environ.get("GRAFT_TLS_CA")
    # One may be away while the other one is used.
    addresses = {service: found[service] or f"{NOWHERE}{service}" for service in ServiceName}
    return Places(
        addresses[ServiceName.TRAINER],
        addresses[ServiceName.SERVING],
        key or None,
        Path(authority) if authority else None,
        _identity(tls_certificate, tls_key),
    )


def _identity(certificate: File | None, key: File | None) -> Identity | None:
    if certificate is None and key is None:
        return tls_identity()
    if certificate is None or key is None:
        raise TlsIncomplete("a client's certificate needs its key too: give tls_certificate and tls_key, or neither")
    return Identity(Path(certificate), Path(key))
