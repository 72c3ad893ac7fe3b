"""What leaves the registry: the same adapter to PEFT, damage that is found, differences that are shown."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.registry.registry_process import RegistryProcess
from tests.store_samples import make_adapter

pytestmark = pytest.mark.slow


def test_an_exported_folder_answers_like_the_original(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, lora)
    model.save_pretrained(tmp_path / "adapter")
    tokens = torch.arange(10)[None]
    expected = model(tokens).logits

    registry = RegistryProcess(tmp_path, tmp_path / "base")
    try:
        assert registry.graft("tenant", "create", "acme").returncode == 0
        made = registry.graft(
            "adapter", "register", "greeter", str(tmp_path / "adapter"), "-t", "acme", "--alias", "prod"
        )
        assert made.returncode == 0, made.stderr
        out = registry.graft("adapter", "export", "greeter", str(tmp_path / "out"), "-t", "acme")
        assert out.returncode == 0, out.stderr
    finally:
        registry.stop()
    fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "out")
    assert torch.equal(loaded(tokens).logits, expected)
    with loaded.disable_adapter():
        assert not torch.allclose(loaded(tokens).logits, expected), "the adapter has an effect at all"


@pytest.fixture
def greeter(registry: RegistryProcess, tmp_path: Path) -> Iterator[list[str]]:
    """Digests of two versions; the alias prod names the first."""
    digests = []
    with registry.client() as client:
        for seed in (11, 12):
            folder = make_adapter(tmp_path / f"greeter-{seed}", seed)
            made = client.register_adapter("acme", "greeter", folder, "prod" if seed == 11 else "")
            digests.append(made.version.name.split("/")[-1])
    yield digests
    shutil.rmtree(registry.root / "store/v1/tenants/acme/adapters", ignore_errors=True)
    shutil.rmtree(registry.root / "store/v1/tenants/acme/blobs", ignore_errors=True)


def test_an_export_by_the_first_characters_takes_that_version(
    registry: RegistryProcess, greeter: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = registry.graft("adapter", "export", f"greeter@{greeter[1][:12]}", str(out), "-t", "acme")
    assert done.returncode == 0, done.stderr
    weights = "adapter_model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "greeter-12" / weights).read_bytes()
    again = registry.graft("adapter", "export", "greeter", str(out), "-t", "acme")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["greeter-11", "greeter-12", "out"]


def test_damage_is_found_and_never_handed_out(registry: RegistryProcess, greeter: list[str], tmp_path: Path) -> None:
    sound = registry.graft("adapter", "verify", "greeter", "-t", "acme")
    assert sound.returncode == 0, sound.stderr
    with registry.client() as client:
        version = client.get_version("tenants/acme/adapters/greeter/aliases/prod")
    digest = next(file.sha256 for file in version.files if file.path.endswith(".safetensors"))
    blob = registry.root / f"store/v1/tenants/acme/blobs/sha256/{digest}"
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    found = registry.graft("adapter", "verify", "greeter", "-t", "acme", "--json")
    assert found.returncode == 1
    assert "1 of 6 files" in found.stderr
    problems = {
        check["file"]["sha256"]: check["problem"] for item in json.loads(found.stdout) for check in item["files"]
    }
    assert [name for name, problem in problems.items() if problem] == [digest]
    refused = registry.graft("adapter", "export", "greeter", str(tmp_path / "out"), "-t", "acme")
    assert refused.returncode == 1
    assert digest in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_difference_is_shown_by_module(registry: RegistryProcess, greeter: list[str]) -> None:
    done = registry.graft("adapter", "diff", "greeter", "prod", greeter[1][:10], "-t", "acme", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["modules"]) == 4
    assert all(module["norm_difference"] > 1 for module in found["modules"])
    shown = registry.graft("adapter", "diff", "greeter", greeter[0][:10], greeter[1][:10], "-t", "acme")
    assert "model.layers.0.self_attn.q_proj" in shown.stdout


def test_names_that_mean_nothing_end_in_one_line(registry: RegistryProcess, greeter: list[str], tmp_path: Path) -> None:
    for arguments in (
        ["export", "greeter@00000000", str(tmp_path / "x")],
        ["export", "nobody", str(tmp_path / "x")],
        ["verify", "nobody"],
        ["diff", "greeter", "prod", "zzz"],
    ):
        done = registry.graft("adapter", *arguments, "-t", "acme")
        assert done.returncode == 1, arguments
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "x").exists()
