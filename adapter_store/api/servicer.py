"""RegistryService: converts, checks who calls, delegates to the store. The store's calls block, so they run in threads.

The calls themselves are in `tenant_calls`, `adapter_calls`, `transfer_calls`, `dataset_calls` and `audit_calls`.
"""

from pathlib import Path

from adapter_store.api.adapter_calls import AdapterCalls
from adapter_store.api.audit_calls import AuditCalls
from adapter_store.api.audit_trail import AuditTrail
from adapter_store.api.dataset_calls import DatasetCalls
from adapter_store.api.tenant_calls import TenantCalls
from adapter_store.api.transfer_calls import TransferCalls
from adapter_store.base import BaseInfo
from adapter_store.store import AdapterStore
from graftwork.v1 import registry_pb2 as pb
from graftwork.v1 import registry_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name


# The mixins come first: the generated class answers UNIMPLEMENTED to everything.
class RegistryServicer(
    TenantCalls, AdapterCalls, TransferCalls, DatasetCalls, AuditCalls, registry_pb2_grpc.RegistryServiceServicer
):
    """The registry of one store; mounted on the trainer's and on the serving server, and run alone.

    Args:
        store: what is registered.
        base: the backbone that registered adapters must fit.
        staging: this process's own folder for adapters that arrive; what lies in it from before is the caller's to clear.
        signing_key_file: what it signs registered adapters with; None signs none.
        trail: of this process; None where no audit log is kept.
    """

    def __init__(
        self,
        store: AdapterStore,
        base: BaseInfo,
        staging: Path,
        signing_key_file: Path | None = None,
        trail: AuditTrail | None = None,
    ) -> None:
        self._store, self._base, self._staging = store, base, staging
        self._signing_key_file, self._trail = signing_key_file, trail
