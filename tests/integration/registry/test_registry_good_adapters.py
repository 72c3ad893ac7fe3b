"""Good adapters through the real command: what is registered is what comes out."""

import json
from pathlib import Path

import pytest

from graftwork.template import template_digest
from tests.integration.registry.registry_process import RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow


def test_a_registered_adapter_is_listed_with_its_origin_and_its_alias(registry: RegistryProcess, folder: Path) -> None:
    make_adapter(folder, seed=1)
    done = registry.graft("adapter", "register", "greeter", str(folder), "-t", "acme", "--alias", "prod", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["version"]["made_by"].startswith("registered by operator ")
    (listed,) = [
        item
        for item in json.loads(registry.graft("adapter", "list", "--json", "-t", "acme").stdout)
        if item["name"].endswith("/greeter")
    ]
    assert [alias["version"] for alias in listed["aliases"]] == [made["version"]["name"].split("/")[-1]]


def test_registering_again_is_the_same_version(registry: RegistryProcess, folder: Path) -> None:
    make_adapter(folder, seed=2)
    with registry.client() as client:
        one = client.register_adapter("acme", "twice", folder)
        two = client.register_adapter("acme", "twice", folder)
        assert two.version == one.version
        assert not two.HasField("alias")
        assert len(list(client.list_versions("tenants/acme/adapters/twice"))) == 1


@pytest.mark.parametrize("own", ["", "{{ backbone }}"])
def test_without_a_template_the_backbones_or_the_projects_is_used(
    registry: RegistryProcess, folder: Path, own: str, tmp_path: Path
) -> None:
    from graftwork.template import DEFAULT_CHAT_TEMPLATE
    from tests.store_samples import make_base

    make_adapter(folder)
    (folder / "chat_template.jinja").unlink()
    base = make_base(tmp_path / "backbone")
    if own:
        (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": own}))
    other = RegistryProcess(tmp_path, base)
    try:
        with other.client() as client:
            client.create_tenant("acme")
            version = client.register_adapter("acme", "greeter", folder).version
    finally:
        other.stop()
    assert version.template_digest == template_digest(own or DEFAULT_CHAT_TEMPLATE)


def test_what_else_lies_in_a_repository_stays_there(registry: RegistryProcess, folder: Path) -> None:
    make_adapter(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ of_the_repository }}"}))
    (folder / "README.md").write_text("# A card")
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    (folder / "checkpoint-10").mkdir()
    with registry.client() as client:
        version = client.register_adapter("acme", "repository", folder).version
    assert version.template_digest == template_digest("{{ of_the_repository }}")
    assert len(version.files) == 3


def test_a_tenants_key_registers_for_itself_alone(registry: RegistryProcess, folder: Path) -> None:
    make_adapter(folder, seed=3)
    with registry.client() as operator:
        operator.create_tenant("bloom")
        key = operator.create_key("bloom").secret
    own = registry.graft("adapter", "register", "mine", str(folder), key=key)
    assert own.returncode == 0, own.stderr
    foreign = registry.graft("adapter", "register", "theirs", str(folder), "-t", "acme", key=key)
    assert (foreign.returncode, foreign.stderr) == (1, "graft: tenants/acme not found\n")
