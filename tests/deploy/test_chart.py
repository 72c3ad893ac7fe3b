"""The Helm chart, rendered by Helm and held against Kubernetes' own schemas and against what the services read.

Proves: every manifest of every shape is valid, for the oldest and the newest Kubernetes; services, budgets and policies meet
the pods that they are for; no secret is a value; pods run without privileges and write to mounted folders only; each setting
is one that its service knows and takes; wrong values are refused before anything is installed.
"""

import copy
import json
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.places import CHART, ROOT, ChartRefused, Manifest
from tests.deploy.service_settings import parsed

Render = Callable[[dict[str, Any]], list[Manifest]]
SMALLEST = {"store": {"url": "s3://adapters/prod?endpoint=https://s3.example.com"}}
EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "grafts",
    "image": {"tag": "0.1.0-cuda", "pullSecrets": ["registry"]},
    "backbone": {
        "name": "/models/base",
        "volume": {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
    },
    "store": {
        "url": "s3://adapters/prod?endpoint=https://s3.example.com",
        "credentials": {"secretName": "s3"},
    },
    "tls": {"secretName": "graftwork-tls"},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/graftwork"}},
    "serving": {
        "replicas": 3,
        "extraEnv": {"GRAFT_SERVING_MAX_LORAS": "8", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"},
        "gpu": {"count": 1, "runtimeClassName": "nvidia"},
        "cache": {"storageClassName": "local-nvme", "size": "100Gi"},
        "metrics": {"public": False, "secretName": "prometheus-viewer"},
        "podDisruptionBudget": {"maxUnavailable": "25%"},
        "ingress": {"enabled": True, "className": "nginx", "host": "llm.example.com", "tlsSecretName": "llm-tls"},
        "podAnnotations": {"team": "ml"},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "serving",
    },
    "trainer": {
        "replicas": 2,
        "extraEnv": {
            "GRAFT_TRAINER_MAX_QUEUED_JOBS": "50",
            "GRAFT_TRAINER_SIGNING_KEY_FILE": "/etc/graftwork/signing/signing.key",
        },
        "extraVolumes": [{"name": "signing", "secret": {"secretName": "signing", "defaultMode": 0o440}}],
        "extraVolumeMounts": [{"name": "signing", "mountPath": "/etc/graftwork/signing", "readOnly": True}],
        "gpu": {"count": 4},
        "database": {"secretName": "jobs-database"},
        "jobs": {"existingClaim": "checkpoints"},
        "state": {"storageClassName": "fast"},
        "affinity": {"nodeAffinity": {}},
    },
    "console": {"ingress": {"enabled": True, "host": "console.example.com", "tlsSecretName": "console-tls"}},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}],
        "metrics": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "s3Ports": [443, 9000],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
PLAIN_TLS = {**SMALLEST, "tls": {"secretName": "graftwork-tls"}}
MUTUAL_TLS = {**SMALLEST, "tls": {"secretName": "graftwork-tls", "clientCa": True}}
BARE = {
    **SMALLEST,
    "networkPolicy": {"enabled": False},
    "console": {"enabled": False},
    "serviceAccount": {"create": False},
    "store": {**SMALLEST["store"], "gc": {"enabled": False}},
    "serving": {"podDisruptionBudget": {"enabled": False}},
}
SHAPES = {
    "smallest": SMALLEST,
    "everything": EVERYTHING,
    "plain-tls": PLAIN_TLS,
    "mutual-tls": MUTUAL_TLS,
    "bare": BARE,
}
shapes = pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
OWN_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Of the Prometheus operator: Kubernetes has no schema of them."""


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Pod templates by their component."""
    found = {}
    for manifest in manifests:
        match manifest["kind"]:
            case "Deployment" | "StatefulSet":
                template = manifest["spec"]["template"]
            case "CronJob":
                template = manifest["spec"]["jobTemplate"]["spec"]["template"]
            case "Pod":
                template = manifest
            case _:
                continue
        found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return found


def environment(pod: Manifest) -> dict[str, str]:
    """What a pod's container is told; a secret's text becomes one that its setting takes."""
    return {
        entry["name"]: entry.get("value", "postgresql://user:password@host/name")
        for entry in pod["spec"]["containers"][0]["env"]
    }


@shapes
@pytest.mark.parametrize("version", ["1.27.0", kubernetes_validate.latest_version()])
def test_every_manifest_is_valid(render: Render, values: dict[str, Any], version: str) -> None:
    manifests = [manifest for manifest in render(values) if manifest["kind"] not in OWN_KINDS]
    assert {"Deployment", "StatefulSet", "Service"} <= {manifest["kind"] for manifest in manifests}
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_validator_refuses_what_kubernetes_does_not_know(render: Render) -> None:
    deployment = copy.deepcopy(of_kind(render(SMALLEST), "Deployment")[0])
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


@shapes
def test_lint_finds_nothing(helm: Callable[..., Any], values: dict[str, Any]) -> None:
    findings = helm("lint", values)
    assert findings["errors"] == []
    assert [found for found in findings["messages"] if "icon" not in found["error"]] == []


@shapes
def test_services_budgets_and_policies_meet_pods(render: Render, values: dict[str, Any]) -> None:
    manifests = render(values)
    templates = list(pods(manifests).values())
    for manifest in of_kind(manifests, "Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"):
        spec = manifest["spec"]
        selector = spec.get("podSelector") or spec["selector"]
        wanted = selector.get("matchLabels", selector).items()
        met = [pod for pod in templates if wanted <= pod["metadata"]["labels"].items()]
        assert len(met) == 1, f"{manifest['kind']} {manifest['metadata']['name']} meets {len(met)} kinds of pods"
        if manifest["kind"] == "Service":
            named = {port["name"]: port["containerPort"] for port in met[0]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= set(named)


@shapes
def test_no_secret_is_a_value(render: Render, values: dict[str, Any]) -> None:
    manifests = render(values)
    assert of_kind(manifests, "Secret") == []
    for pod in pods(manifests).values():
        for entry in pod["spec"]["containers"][0].get("env", []):
            if entry["name"] in {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GRAFT_TRAINER_DATABASE_URL"}:
                assert set(entry) == {"name", "valueFrom"}


@shapes
def test_pods_run_without_privileges(render: Render, values: dict[str, Any]) -> None:
    for name, pod in pods(render(values)).items():
        spec, container = pod["spec"], pod["spec"]["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10000, name
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if name != "test":
            assert container["resources"]["limits"]["memory"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]} | ({"state"} if name == "trainer" else set())


@shapes
def test_services_take_their_settings(render: Render, values: dict[str, Any]) -> None:
    templates = pods(render(values))
    for component in ("serving", "trainer", *(["console"] if "console" in templates else [])):
        told = environment(templates[component])
        settings = parsed(component, told)
        container = templates[component]["spec"]["containers"][0]
        assert container["args"] == [component]
        open_ports = {port["containerPort"] for port in container["ports"]}
        names = ("port", "http_port", "metrics_port")
        assert {getattr(settings, name) for name in names if hasattr(settings, name)} == open_ports
        mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
        for name in ("cache_dir", "state_dir", "jobs_dir"):
            if folder := getattr(settings, name, None):
                writable = {mount for mount, read_only in mounts.items() if not read_only}
                assert any(PurePosixPath(folder).is_relative_to(mount) for mount in writable), f"{name} of {component}"
        for name in (
            "operator_key_file",
            "tls_certificate",
            "tls_key",
            "tls_client_ca",
            "probe_tls_ca",
            "tls_ca",
            "signing_key_file",
        ):
            if file := getattr(settings, name, None):
                assert any(PurePosixPath(file).is_relative_to(mount) for mount in mounts), f"{name} of {component}"


def test_components_find_each_other(render: Render) -> None:
    manifests = render(EVERYTHING)
    addresses = {
        f"{service['metadata']['name']}:{port['port']}"
        for service in of_kind(manifests, "Service")
        for port in service["spec"]["ports"]
    }
    templates = pods(manifests)
    assert environment(templates["trainer"])["GRAFT_TRAINER_PROBE_ADDRESS"] in addresses
    for name in ("GRAFT_CONSOLE_TRAINER", "GRAFT_CONSOLE_SERVING"):
        assert environment(templates["console"])[name] in addresses
    for name in ("GRAFT_TRAINER", "GRAFT_SERVING"):
        assert environment(templates["test"])[name] in addresses


def test_gpus_are_requested_and_not_waited_for(render: Render) -> None:
    manifests = render(EVERYTHING)
    templates = pods(manifests)
    serving, trainer = (templates[name]["spec"] for name in ("serving", "trainer"))
    assert serving["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert serving["runtimeClassName"] == "nvidia"
    assert trainer["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert environment(templates["trainer"])["GRAFT_TRAINER_DEVICES"] == "4"
    deployment = next(one for one in of_kind(manifests, "Deployment") if one["metadata"]["name"] == "grafts-serving")
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_pod_may_drain_before_it_is_killed(render: Render) -> None:
    serving = pods(render({**SMALLEST, "serving": {"drainSeconds": 120}}))["serving"]
    assert environment(serving)["GRAFT_SERVING_DRAIN_SECONDS"] == "120"
    assert serving["spec"]["terminationGracePeriodSeconds"] > 120


def test_certificates_switch_the_probes(render: Render) -> None:
    plain, tls, mutual = (pods(render(values)) for values in (SMALLEST, PLAIN_TLS, MUTUAL_TLS))
    assert plain["serving"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTP"
    assert tls["serving"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert "exec" in mutual["serving"]["spec"]["containers"][0]["readinessProbe"]
    trainer = environment(mutual["trainer"])
    assert trainer["GRAFT_TRAINER_PROBE_TLS_CERTIFICATE"] == trainer["GRAFT_TRAINER_TLS_CERTIFICATE"]
    assert environment(mutual["test"])["GRAFT_TLS_KEY"] == trainer["GRAFT_TRAINER_TLS_KEY"]
    assert "grpc" in plain["trainer"]["spec"]["containers"][0]["readinessProbe"]
    assert "tcpSocket" in tls["trainer"]["spec"]["containers"][0]["readinessProbe"]


def test_the_console_shows_a_certificate_where_services_ask_for_one(render: Render) -> None:
    def shown(values: dict[str, Any]) -> dict[str, str]:
        """The secret behind each of the console's two files, by setting; empty without."""
        console = pods(render(values))["console"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in console["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume.get("secret") for volume in console["volumes"]}
        found = {}
        for name, value in environment({"spec": console}).items():
            if name in ("GRAFT_TLS_CERTIFICATE", "GRAFT_TLS_KEY"):
                file = PurePosixPath(value)
                secret = volumes[mounts[str(file.parent)]]
                assert {"key": file.name, "path": file.name} in secret["items"]
                found[name] = secret["secretName"]
        return found

    both = ("GRAFT_TLS_CERTIFICATE", "GRAFT_TLS_KEY")
    assert shown(PLAIN_TLS) == {}
    assert shown(MUTUAL_TLS) == dict.fromkeys(both, "graftwork-tls")
    own = {**MUTUAL_TLS, "console": {"clientTlsSecretName": "console-client"}}
    assert shown(own) == dict.fromkeys(both, "console-client")


def test_monitoring_is_what_lies_beside_the_chart(render: Render) -> None:
    manifests = render(EVERYTHING)
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    assert of_kind(manifests, "PrometheusRule")[0]["spec"] == rules
    shown = {name: json.loads(text) for one in of_kind(manifests, "ConfigMap") for name, text in one["data"].items()}
    files = (ROOT / "deploy/grafana/dashboards").glob("*.json")
    assert shown == {file.name: json.loads(file.read_text()) for file in files} != {}
    monitors = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "ServiceMonitor")}
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    jobs = {monitor["endpoints"][0]["relabelings"][0]["replacement"] for monitor in monitors.values()}
    assert jobs == {job["job_name"] for job in scraped}
    serving = monitors["grafts-serving"]["endpoints"][0]
    assert serving["scheme"] == "https"
    assert serving["authorization"]["credentials"] == {"name": "prometheus-viewer", "key": "metrics.key"}


def test_a_packaged_chart_holds_dashboards_and_alerts(helm: Callable[..., Any], tmp_path: Path) -> None:
    """They are links in the checkout; a package must not be one that points out of itself."""
    with tarfile.open(helm("package", {"destination": str(tmp_path)})) as package:
        names = {member.name for member in package.getmembers() if member.isfile()}
        rules = package.extractfile("graftwork/files/alerts.yaml")
        assert rules is not None
        assert rules.read() == (ROOT / "deploy/prometheus/alerts.yaml").read_bytes()
    assert {"graftwork/files/dashboards/serving.json", "graftwork/values.schema.json"} <= names


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "store.url is required"),
        ({"store": {"url": "http://bucket"}}, "store/url"),
        ({**SMALLEST, "serving": {"replica": 2}}, "'replica' not allowed"),
        ({**SMALLEST, "serving": {"replicas": "two"}}, "replicas"),
        ({**SMALLEST, "serving": {"extraEnv": {"GRAFT_TRAINER_PORT": "1"}}}, "GRAFT_TRAINER_PORT"),
        ({**SMALLEST, "trainer": {"replicas": 2}}, "PostgreSQL"),
        ({**SMALLEST, "serving": {"ingress": {"enabled": True}}}, "ingress.host"),
        ({**SMALLEST, "operatorKey": {"secretName": ""}}, "secretName"),
        (
            {
                **SMALLEST,
                "serving": {"metrics": {"public": False}},
                "monitoring": {"serviceMonitor": {"enabled": True}},
            },
            "viewer's key",
        ),
    ],
)
def test_wrong_values_are_refused(render: Render, values: dict[str, Any], word: str) -> None:
    with pytest.raises(ChartRefused, match=word):
        render(values)


def test_the_schema_and_the_defaults_have_the_same_names() -> None:
    """A default that the schema lacks could not be set; a name without a default is not in the documented list."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def differing(schema: dict[str, Any], values: dict[str, Any], at: str) -> list[str]:
        known = schema.get("properties")
        if known is None:
            return []
        found = [f"{at}{name}" for name in known.keys() ^ values.keys() if name != "global"]
        for name in known.keys() & values.keys():
            if isinstance(values[name], dict):
                found += differing(known[name], values[name], f"{at}{name}.")
        return found

    assert differing(schema, defaults, "") == []


def test_policies_let_in_whom_the_chart_starts(render: Render) -> None:
    """With clients of the operator's choice, the console, the probe and `helm test` still reach the services."""
    manifests = render(EVERYTHING)
    templates = pods(manifests)
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(manifests, "NetworkPolicy")}

    def lets_in(component: str, caller: str, port: str) -> bool:
        labels = templates[caller]["metadata"]["labels"].items()
        return any(
            peer.get("podSelector", {"matchLabels": {"": ""}}).get("matchLabels", {}).items() <= labels
            for rule in policies[f"grafts-{component}"]["ingress"]
            for peer in rule["from"]
            if port in {one["port"] for one in rule["ports"]}
        )

    for component, callers in {"serving": ("trainer", "console", "test"), "trainer": ("console", "test")}.items():
        for caller in callers:
            assert lets_in(component, caller, "grpc"), f"{caller} may not call {component}"
    assert not lets_in("trainer", "serving", "grpc")
    assert not lets_in("console", "serving", "http")
