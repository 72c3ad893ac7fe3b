"""The blocking client: where it finds the services, what it offers, and generation."""

from typing import Self, Unpack

from graftwork.sdk import answers
from graftwork.sdk.answers import Answer, Options, Prompt
from graftwork.sdk.blocking.adapters import Adapters
from graftwork.sdk.blocking.audit import Audit
from graftwork.sdk.blocking.datasets import Datasets
from graftwork.sdk.blocking.jobs import Jobs
from graftwork.sdk.blocking.serving import Serving
from graftwork.sdk.blocking.streaming import AnswerStream
from graftwork.sdk.blocking.tenants import Tenants
from graftwork.sdk.blocking.wire import Wire
from graftwork.sdk.callers import Caller, get_caller
from graftwork.sdk.calls import CALL_TIMEOUT_S, Patience
from graftwork.sdk.names import Scope
from graftwork.sdk.places import File, find_places


class Client:
    """Calls Graftwork and waits for the answers. Safe to share between threads; use it as a context manager, or `close` it.

    Without arguments it finds what `graft up` started: addresses and the operator's key in the home folder.

    Args:
        trainer: `host:port` of the trainer; also answers calls about tenants, data sets and adapters. Else GRAFT_TRAINER,
            else the home folder.
        serving: `host:port` of the serving service. Else GRAFT_SERVING, else the home folder.
        api_key: an operator's or a tenant's. Else GRAFT_API_KEY, else, with the home's own services, its operator's key.
        tenant: whose things the calls are about; a tenant's key says it by itself.
        tls_ca: PEM file of the authority to trust. Else GRAFT_TLS_CA, else plain text.
        tls_certificate, tls_key: PEM files, for services that ask for a client's certificate. Else GRAFT_TLS_CERTIFICATE
            and GRAFT_TLS_KEY, else none is shown.
        home: the folder of a local Graftwork. Else GRAFT_HOME, else `~/.graftwork`.
        timeout: seconds of a call with one answer, all its tries together. Uploads and reading whole versions have an
            hour, streams as long as they take, unless the call says otherwise.
        retries: tries after the first one, of a call that found the service away or over a limit. A change carries an id
            by which the service knows its repeat, so that none is carried out twice; a stream is repeated only as long as
            nothing has arrived.

    Raises:
        NotRunning: neither service's address is known.
        TlsIncomplete: a certificate without its key.
        OSError: a PEM file cannot be read.

    Attributes:
        tenants, datasets, jobs, adapters, serving, audit: the other calls.
        tenant: whose things they are about; None for an operator's client without one.
    """

    def __init__(
        self,
        *,
        trainer: str | None = None,
        serving: str | None = None,
        api_key: str | None = None,
        tenant: str | None = None,
        tls_ca: File | None = None,
        tls_certificate: File | None = None,
        tls_key: File | None = None,
        home: File | None = None,
        timeout: float = CALL_TIMEOUT_S,
        retries: int = 3,
    ) -> None:
        places = find_places(trainer, serving, api_key, tls_ca, home, tls_certificate, tls_key)
        self._owns_wire = True
        self._bind(Wire(places, timeout, Patience(retries)), tenant or places.tenant)

    def _bind(self, wire: Wire, tenant: str | None) -> None:
        self._wire, self._scope, self.tenant = wire, Scope(tenant), tenant
        self.tenants = Tenants(wire)
        self.datasets = Datasets(wire, self._scope)
        self.jobs = Jobs(wire, self._scope)
        self.adapters = Adapters(wire, self._scope)
        self.serving = Serving(wire, self._scope)
        self.audit = Audit(wire, self._scope)

    def for_tenant(self, tenant: str) -> "Client":
        """Returns a client for one tenant's things over the same connections; closing it leaves them open."""
        other = Client.__new__(Client)
        other._owns_wire = False
        other._bind(self._wire, tenant)
        return other

    def whoami(self) -> Caller:
        """Tells whose key this client has, and what it may do. Raises RemoteUnauthenticated for a key that nobody has."""
        return self._wire.call(get_caller())

    def generate(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, **options: Unpack[Options]
    ) -> Answer:
        """Asks a model and waits for the whole answer.

        Args:
            prompt: a user's turn, a list of `Message`, or token ids. Turns go through the template that the adapter was
                trained with.
            model: `adapter` (its alias prod), `adapter:alias` or `adapter@digest`; empty: the base.
            timeout: seconds; None: no limit.
            options: see `Options`, as `max_tokens=64, temperature=0`.

        Raises:
            RemoteNotFound: no such adapter, alias or version of this tenant.
            RemoteInvalid: a prompt or an option that cannot be used; the message says which.
            RemotePrecondition: the adapter was made for another backbone, or the tenant is disabled.
            RemoteExhausted: over a limit of the tenant; `retry_after_seconds` says until when.
            RemoteUnavailable: the service is away, starting or stopping.
            RemoteDeadline: the time was up; the generation was stopped.
            TypeError, ValueError: no such option, or options that exclude each other.
        """
        return self.stream(prompt, model=model, timeout=timeout, **options).answer()

    def stream(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, **options: Unpack[Options]
    ) -> AnswerStream:
        """Asks a model and returns the answer's pieces as they come; arguments and errors are `generate`'s.

        The request goes out with the first piece that is asked for.
        """
        parent = self._scope.parent if model or self.tenant else ""
        return AnswerStream(self._wire.stream(answers.generate(parent, model, prompt, options, timeout)))

    def close(self) -> None:
        """Ends the connections, and with them what is still running over them."""
        if self._owns_wire:
            self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
