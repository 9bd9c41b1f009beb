"""Checks the Kubernetes manifests, the compose files and the Dockerfile against each other and the gateway.

Builds every overlay, and the base with each component alone. Validates each object: Kubernetes' own kinds by its
schemas, custom resources by k8s/schemas; one without a schema needs only apiVersion, kind and a name. Every metric,
variable of the gateway, port, and reference from one object to another must exist.

Needs PyYAML, jsonschema, kubernetes-validate and kubectl: `tests/servers install`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "k8s"
COMPOSE = sorted(ROOT.glob("docker-compose*.yml"))
KUBECTL = ROOT / ".servers/venv/bin/kubectl"
OVERLAYS = ["base", "production", "with-servers"]
COMPONENTS = sorted(folder.name for folder in (K8S / "components").iterdir())
# API groups of Kubernetes itself have no dot, or end so.
BUILT_IN = re.compile(r"v1|[a-z]+/v\d+|[a-z.]+\.k8s\.io/v\d+")
IMAGE = re.compile(r"(.*/)?roundtrip:")

problems = []


def expect(holds, where, problem):
    if not holds:
        problems.append(f"{where}: {problem}")


def read(path):
    return (ROOT / path).read_text()


# --- what there is ---------------------------------------------------------------------------------


def known_variables():
    """The variables that services/roundtrip/src/config/environment.rs accepts."""
    short = re.findall(r'\("([A-Z_]+)", "[a-z_.]+"\)', read("services/roundtrip/src/config/environment.rs"))
    section, prefixed = "", []
    for line in read("services/roundtrip/roundtrip.toml").splitlines():
        if found := re.fullmatch(r"(?:# )?\[([a-z_.]+)\]", line):
            section = found[1] + "."
        elif found := re.match(r"(?:# )?([a-z_]+) = ", line):
            prefixed.append("ROUNDTRIP__" + (section + found[1]).replace(".", "__").upper())
    # Each also with _FILE, for a file that holds the value.
    return tuple({name + ending for name in names for ending in ("", "_FILE")} for names in (short, prefixed))


SHORT, PREFIXED = known_variables()
METRICS = set(re.findall(r"\| `([a-z_]+)` \|", read("docs/metrics.md")))
VERSION = re.search(r'^version = "(.+)"', read("Cargo.toml"), re.M)[1]
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in (K8S / "schemas").glob("*.json")}


# --- one set of objects ----------------------------------------------------------------------------


def build(folder):
    built = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"tests/manifests.py: kubectl kustomize {folder}: {built.stderr}")
    return list(yaml.safe_load_all(built.stdout))


def with_component(component):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder).resolve()
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "roundtrip",
            "resources": [os.path.relpath(K8S / "base", folder)],
            "components": [os.path.relpath(K8S / "components" / component, folder)],
        }
        (folder / "kustomization.yaml").write_text(yaml.dump(overlay))
        return build(folder)


def validate(where, document):
    version, kind = document.get("apiVersion", ""), document.get("kind", "")
    schema = SCHEMAS.get(f"{version.replace('/', '_')}_{kind}")
    if schema:
        for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
            problems.append(f"{where}: {error.json_path}: {error.message}")
    elif BUILT_IN.fullmatch(version):
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except Exception as error:  # The library has one class for each of its two validators.
            problems.append(f"{where}: {error}")
    else:
        expect(version and kind, where, "apiVersion and kind are missing")


def selects(selector, pods):
    wanted = selector["matchLabels"].items()
    return any(wanted <= pod["metadata"]["labels"].items() for pod in pods)


def check_environment(where, container, config, pod_ports):
    own = {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}
    used = {name for value in own.values() for name in re.findall(r"\$\((\w+)\)", value)}
    for name in own.keys() | config.keys():
        expect(name in SHORT | PREFIXED | used, where, f"{name} is not a variable of the gateway")
    for name, port in pod_ports.items():
        listen = {"http": "INGRESS", "operations": "OPERATIONS"}[name]
        variable = f"ROUNDTRIP__{listen}__LISTEN"
        expect(config.get(variable, "").endswith(f":{port}"), where, f"port {name} is not that of {variable}")


def check(name, documents):
    by = {}
    for document in documents:
        by.setdefault(document["kind"], {})[document["metadata"]["name"]] = document
    deployments = by.get("Deployment", {})
    pods = [d["spec"]["template"] for k in ("Deployment", "StatefulSet") for d in by.get(k, {}).values()]
    configs = by.get("ConfigMap", {})

    for document in documents:
        kind, metadata, spec = document["kind"], document["metadata"], document.get("spec", {})
        where = f"k8s/{name}: {kind} {metadata['name']}"
        validate(where, document)
        expect(metadata["name"].startswith("roundtrip"), where, "its name lacks the product's")
        if kind not in ("ConfigMap", "Namespace"):
            labels = metadata.get("labels", {})
            expect(labels.get("app.kubernetes.io/part-of") == "roundtrip", where, "the label part-of is missing")
        if kind == "Deployment":
            labels = spec["template"]["metadata"]["labels"]
            for label in ("name", "instance", "component", "part-of", "version"):
                expect(f"app.kubernetes.io/{label}" in labels, where, f"the label {label} is missing")
            expect(labels["app.kubernetes.io/version"] == VERSION, where, f"its version is not {VERSION}")
            [container] = spec["template"]["spec"]["containers"]
            expect(container["image"].endswith(f"roundtrip:{VERSION}"), where, f"its image is not of {VERSION}")
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            [config] = [from_["configMapRef"]["name"] for from_ in container["envFrom"] if "configMapRef" in from_]
            check_environment(where, container, configs[config]["data"], ports)
            for probe in ("livenessProbe", "readinessProbe"):
                expect(container.get(probe, {}).get("httpGet", {}).get("port") in ports, where, f"{probe} names an unknown port")
            scaled = any(
                scaler["spec"]["scaleTargetRef"]["name"] == metadata["name"]
                for scaler_kind in ("ScaledObject", "HorizontalPodAutoscaler")
                for scaler in by.get(scaler_kind, {}).values()
            )
            expect(("replicas" in spec) != scaled, where, "either it or its scaler sets the replicas")
        if kind == "Service":
            chosen = [p for p in pods if spec["selector"].items() <= p["metadata"]["labels"].items()]
            expect(chosen, where, "it selects no pod")
            for pod in chosen:
                names = {p["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
                expect({p["targetPort"] for p in spec["ports"]} <= names, where, "a pod lacks a targetPort")
        if kind in ("ScaledObject", "HorizontalPodAutoscaler"):
            expect(spec["scaleTargetRef"]["name"] in deployments, where, "it scales no Deployment")
        operated = {n for k in ("RabbitmqCluster", "MongoDBCommunity") for n in by.get(k, {})}
        if kind == "PodDisruptionBudget" and metadata["name"] not in operated:
            expect(selects(spec["selector"], pods), where, "it selects no pod")
        if kind == "PodMonitor":
            expect(selects(spec["selector"], pods), where, "it selects no pod")
            expect([e["port"] for e in spec["podMetricsEndpoints"]] == ["operations"], where, "another port")
        if kind == "NetworkPolicy":
            expect(selects(spec["podSelector"], pods), where, "it selects no pod")
            opened = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
            expect(opened <= {"http", "operations"}, where, "it opens an unknown port")
        if kind == "HTTPRoute":
            for backend in (b for rule in spec["rules"] for b in rule["backendRefs"]):
                service = by["Service"].get(backend["name"], {"spec": {"ports": []}})
                served = {port["port"] for port in service["spec"]["ports"]}
                expect(backend["port"] in served, where, f"no Service {backend['name']} has this port")
        if kind == "Policy":
            shipped = json.loads(read("k8s/with-servers/rabbitmq-definitions.json"))["policies"]
            own = {key: spec[key] for key in ("name", "vhost", "pattern", "priority", "definition")}
            own["apply-to"] = spec["applyTo"]
            expect(own in shipped, where, "with-servers/rabbitmq-definitions.json has another policy")
    print(f"k8s/{name}: {len(documents)} resources")


# --- texts and the other files ---------------------------------------------------------------------


def check_texts():
    for path in [p for p in K8S.rglob("*") if p.suffix in (".yaml", ".env", ".md")] + COMPOSE + [ROOT / "Dockerfile"]:
        where, text = path.relative_to(ROOT), path.read_text()
        for name in set(re.findall(r"ROUNDTRIP__[A-Z_]*[A-Z]", text)):
            expect(name in PREFIXED, where, f"{name} is not a variable of the gateway")
        if K8S not in path.parents:
            continue
        for name in set(re.findall(r"\b(?:roundtrip|process)_[a-z_]*[a-z]\b", text)):
            metric = re.sub(r"_(bucket|sum|count)$", "", name)
            expect(metric in METRICS, where, f"docs/metrics.md has no metric {name}")


def check_compose():
    for path in COMPOSE:
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            if not IMAGE.match(service.get("image", "")):
                continue
            where = f"{path.name}: {name}"
            environment = service["environment"]
            for variable in environment:
                expect(variable in SHORT | PREFIXED, where, f"{variable} is not a variable of the gateway")
            listens = {environment[f"ROUNDTRIP__{s}__LISTEN"].rpartition(":")[2] for s in ("INGRESS", "OPERATIONS")}
            for port in service.get("ports", []):
                expect(port.rpartition(":")[2] in listens, where, f"nothing listens on the port of {port}")


def check_dockerfile():
    text = read("Dockerfile")
    defaults = re.findall(r'^listen = "[0-9.]+:(\d+)"', read("services/roundtrip/roundtrip.toml"), re.M)
    exposed = re.search(r"^EXPOSE (.+)$", text, re.M)[1].split()
    expect(sorted(exposed) == sorted(defaults), "Dockerfile", f"EXPOSE is not {defaults}, the default ports")
    expect(f"\nARG VERSION={VERSION}\n" in text, "Dockerfile", f"VERSION is not {VERSION}")


for overlay in OVERLAYS:
    check(overlay, build(K8S / overlay))
for component in COMPONENTS:
    check(f"components/{component}", with_component(component))
check_texts()
check_compose()
check_dockerfile()
if problems:
    sys.exit("\n".join(["tests/manifests.py:", *problems]))
