"""An operator's day: a tenant, its limits, its key, what it may not do, and a key that leaked.

python docs/examples/operate_tenants.py --tenant bloom
"""

import argparse

from graftwork import Client, RemoteAlreadyExists, RemoteForbidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tenant", required=True)
    args = parser.parse_args()

    with Client() as operator:
        info = operator.serving.info()
        print(f"serving {info.base_model}: {info.max_loras} adapters in a batch, up to rank {info.max_lora_rank}")
        try:
            tenant = operator.tenants.create(args.tenant)
        except RemoteAlreadyExists:
            tenant = operator.tenants.get(args.tenant)
        tenant = operator.tenants.update(tenant.id, weight=2, requests_per_minute=600, max_running_jobs=1)
        print(f"{tenant.id}: weight {tenant.weight}, {tenant.limits.requests_per_minute} requests a minute")

        issued = operator.tenants.create_key(tenant.id, "example")  # `issued.secret` is not shown again: store it
        with Client(api_key=issued.secret) as own:
            print(f"its own key speaks for {own.tenant}: {len(list(own.adapters.list()))} adapters")
            try:
                own.serving.residency()
            except RemoteForbidden as error:
                print(f"not for tenants: {error}")

        revoked = operator.tenants.revoke_key(tenant.id, issued.key.id)
        print(f"key {revoked.id} revoked: every service refuses it within 5 s")


if __name__ == "__main__":
    main()
