"""Checks the Helm chart in deploy/chart, and deploy/compose.yaml, without a cluster and without a container runtime.

The script renders the chart with each file of deploy/chart/ci. It checks the objects with the schemas of Kubernetes, the
names by which objects refer to each other, and the settings with `sidegate check`. It also checks that the chart refuses
each row of tests/data/chart_mistakes.txt.

    tests/.cache/venv/bin/python tests/chart.py

Needs cargo, and the programs that tests/run installs.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import yaml

from image import Wrong, require

TOP = pathlib.Path(__file__).resolve().parent.parent
CACHE = TOP / "tests/.cache"
CHART = TOP / "deploy/chart"
COMPOSE = TOP / "deploy/compose.yaml"
MISTAKES = TOP / "tests/data/chart_mistakes.txt"
PUBLIC_KEY = TOP / "tests/data/deploy/oauth-public.key"
KUBERNETES = "1.30"
STATE_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"
# Schemas exist only for the objects of Kubernetes itself.
WITHOUT_SCHEMA = {"ServiceMonitor"}
SECRETS = "/run/secrets/"


def helm(*arguments):
    """Runs helm. Returns the finished process with its output."""
    command = [CACHE / "bin/helm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(values):
    """The objects of a release with a file of values, after helm's own checks."""
    linted = helm("lint", "--strict", CHART, "--values", values)
    require(linted.returncode == 0, f"helm lint: {linted.stdout}{linted.stderr}")
    templates = helm("template", "demo", CHART, "--values", values)
    require(templates.returncode == 0, f"helm template: {templates.stderr}")
    return [document for document in yaml.safe_load_all(templates.stdout) if document]


def validate(objects, folder):
    """Compares the objects with the schemas of Kubernetes."""
    known = [each for each in objects if each["kind"] not in WITHOUT_SCHEMA]
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump_all(known))
    command = [CACHE / "venv/bin/kubernetes-validate", "--strict", "-k", KUBERNETES, file]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    require(said.returncode == 0, f"kubernetes-validate: {said.stdout}{said.stderr}")
    require(said.stdout.count(" passed for ") == len(known), f"not all were compared: {said.stdout}")


def of_kind(objects, kind):
    return [each for each in objects if each["kind"] == kind]


def only(found, what):
    require(len(found) == 1, f"{len(found)} {what}")
    return found[0]


def check_references(objects, values):
    """Checks that each selector selects the pods or the Service, and that each named port exists."""
    deployment = only(of_kind(objects, "Deployment"), "Deployments")
    template = deployment["spec"]["template"]
    container = sidegate_container(template["spec"])
    ports = {port["name"] for port in container["ports"]}
    labels = template["metadata"]["labels"].items()
    services = of_kind(objects, "Service")
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in services]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, "PodDisruptionBudget")]
    spread = template["spec"]["topologySpreadConstraints"]
    selectors += [each["labelSelector"]["matchLabels"] for each in spread]
    require(len(selectors) == 1 + len(services) + 2 + 2, f"{len(selectors)} selectors")
    for selector in selectors:
        require(selector and selector.items() <= labels, f"{selector} does not select the pods")
    for service in services:
        for port in service["spec"]["ports"]:
            require(port["targetPort"] in ports, f"no port {port['targetPort']}")
    policy = only(of_kind(objects, "NetworkPolicy"), "NetworkPolicies")
    opened = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
    require(opened == ["http", "operations"], f"the policy opens {opened}")
    public = [service for service in services if "component" not in str(service["metadata"]["labels"])]
    names = {port["name"] for port in only(public, "public Services")["spec"]["ports"]}
    require("operations" not in names, "the public Service has the operations port")
    for ingress in of_kind(objects, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            backend = rule["http"]["paths"][0]["backend"]["service"]
            require(backend["name"] == public[0]["metadata"]["name"], "the Ingress has no Service")
            require(backend["port"]["name"] in names, f"the Ingress names {backend['port']}")
    check_monitor(objects, values, services)
    check_replicas(objects, values, deployment)


def check_monitor(objects, values, services):
    """Checks that the ServiceMonitor selects the Service of the operations port."""
    monitors = of_kind(objects, "ServiceMonitor")
    require(len(monitors) == int(values.get("serviceMonitor", {}).get("enabled", False)), "monitors")
    for monitor in monitors:
        require(monitor["apiVersion"] == "monitoring.coreos.com/v1", monitor["apiVersion"])
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = [each for each in services if wanted <= each["metadata"]["labels"].items()]
        endpoint = only(monitor["spec"]["endpoints"], "endpoints")
        named = {port["name"] for port in only(found, "monitored Services")["spec"]["ports"]}
        require(named == {endpoint["port"]}, f"the monitor reads {endpoint['port']}, not {named}")
        for label in values["serviceMonitor"]["labels"].items():
            require(label in monitor["metadata"]["labels"].items(), f"no label {label}")


def check_replicas(objects, values, deployment):
    """Checks the number of pods, and that old and new pods overlap only with a shared store."""
    replicas, shared = values.get("replicas", 3), bool(values.get("redis", {}).get("urls"))
    autoscalers = of_kind(objects, "HorizontalPodAutoscaler")
    require(len(autoscalers) == int(values.get("autoscaling", {}).get("enabled", False)), "autoscalers")
    if autoscalers:
        require(autoscalers[0]["spec"]["minReplicas"] == replicas, "the minimum of the autoscaler")
        require("replicas" not in deployment["spec"], "the Deployment overrides the autoscaler")
    else:
        require(deployment["spec"]["replicas"] == replicas, "the number of replicas")
    wanted = "RollingUpdate" if shared else "Recreate"
    require(deployment["spec"]["strategy"]["type"] == wanted, f"the strategy is not {wanted}")


def sidegate_container(pod):
    containers = pod.get("initContainers", []) + pod["containers"]
    return only([each for each in containers if each["name"] == "sidegate"], "containers")


def check_pod(pod, values):
    """Checks that Sidegate has no privileges, and that its pod ends in the right order."""
    container = sidegate_container(pod)
    security = container["securityContext"]
    require(security.get("readOnlyRootFilesystem") is True, "the root is writable")
    require(security.get("allowPrivilegeEscalation") is False, "may gain privileges")
    require(security["capabilities"]["drop"] == ["ALL"], "keeps capabilities")
    require(security.get("runAsNonRoot") is True and security.get("runAsUser") == 65532, "the user")
    require(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "no seccomp")
    require(pod["securityContext"]["fsGroup"] == security["runAsGroup"], "cannot read the Secrets")
    require(pod["automountServiceAccountToken"] is False, "has a token of the cluster")
    require(pod["enableServiceLinks"] is False, "Services become variables")
    require(pod["terminationGracePeriodSeconds"] >= 5 + 30 + 65, "is killed before it has ended")
    first = container
    if values.get("form") == "sidecar":
        require(container.get("restartPolicy") == "Always", "not a native sidecar")
        first = only(pod["containers"], "containers of the app")
        require(first["image"] == values["app"]["container"]["image"], "another app")
    require(first["lifecycle"]["preStop"]["sleep"]["seconds"] == 5, "no pause before the end")
    volumes = {volume["name"] for volume in pod["volumes"]}
    mounts = container["volumeMounts"]
    require({mount["name"] for mount in mounts} == volumes, "mounts and volumes differ")
    for mount in mounts:
        require(mount["readOnly"] is True, f"{mount['mountPath']} is writable")
    for volume in pod["volumes"]:
        require("secret" not in volume or volume["secret"]["defaultMode"] == 0o440, "the file mode")
    for variable in container["env"]:
        path = variable["value"]
        mounted = any(path.startswith(mount["mountPath"] + "/") for mount in mounts)
        require(mounted or not path.startswith("/"), f"{path} is not in a volume")


def check_settings(text, environment, folder, program):
    """Checks that the program accepts the settings file together with the variables of the container."""
    # The files of the Secrets are in a folder of this test.
    paths = [value for value in environment.values() if value.startswith(SECRETS)]
    paths += secret_files(tomllib.loads(text))
    secrets = folder / "secrets"
    for path in paths:
        file = secrets / path.removeprefix(SECRETS)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content(file, secrets))
    moved = {name: value.replace(SECRETS, f"{secrets}/") for name, value in environment.items()}
    settings = folder / "sidegate.toml"
    settings.write_text(text.replace(SECRETS, f"{secrets}/"))
    command = [program, "check", "--config", settings]
    said = subprocess.run(command, env=moved, capture_output=True, text=True, check=False)
    require(said.returncode == 0, f"sidegate check: {said.stdout}{said.stderr}")


def secret_files(settings):
    """The paths of all secrets in the settings."""
    if isinstance(settings, dict):
        settings = list(settings.values())
    if isinstance(settings, list):
        return [path for each in settings for path in secret_files(each)]
    return [settings] if isinstance(settings, str) and settings.startswith(SECRETS) else []


def content(file, secrets):
    """A realistic content for a file with this name."""
    if file.name == "state_keys":
        return STATE_KEY
    if file.name.endswith(".key") and "oauth" in file.name:
        return PUBLIC_KEY.read_text()
    if file.suffix in (".crt", ".key"):
        return certificate(file, secrets)
    return "never-shown-8d1f0c\n"


def certificate(file, secrets):
    """A certificate, or the key of the certificate in the same folder."""
    made = secrets / f"made-{file.parent.name}"
    if not made.exists():
        made.mkdir(parents=True)
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        command += ["-nodes", "-subj", "/CN=example", "-addext", "subjectAltName=DNS:app.example.com"]
        command += ["-keyout", made / "made.key", "-out", made / "made.crt"]
        subprocess.run(command, check=True, capture_output=True)
    return (made / f"made{file.suffix}").read_text()


def check_mistakes():
    """Checks that the chart refuses each wrong value, and that the error names the value."""
    lines = MISTAKES.read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    values = CHART / "ci/gateway-values.yaml"
    for wrong, named in rows:
        said = helm("template", "demo", CHART, "--values", values, "--set", wrong)
        require(said.returncode != 0, f"the chart accepts {wrong}")
        require(named in said.stderr, f"{wrong}: the error does not contain {named!r}: {said.stderr}")
    require(len(rows) >= 15, f"only {len(rows)} rows")
    print(f"chart: refused {len(rows)} wrong values")


def build():
    """The program as the tests use it."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--bin", "sidegate"], cwd=TOP, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")).resolve() / "debug/sidegate"


def check_compose(program):
    """Checks the file with the parser of Docker Compose, and the settings in it."""
    command = [CACHE / "venv/bin/docker-compose", "--file", COMPOSE, "config", "--format", "json"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    require(said.returncode == 0, f"docker-compose config: {said.stderr}")
    require("level=warn" not in said.stderr, f"docker-compose config: {said.stderr}")
    project = json.loads(said.stdout)
    services = project["services"]
    require(set(services) == {"app", "redis", "sidegate"}, f"services: {sorted(services)}")
    for name in ("redis", "sidegate"):
        service = services[name]
        require(service.get("read_only") is True, f"{name}: the root is writable")
        require(service.get("cap_drop") == ["ALL"], f"{name}: keeps capabilities")
        require(service.get("security_opt") == ["no-new-privileges:true"], f"{name}: may gain privileges")
    published = [name for name, service in services.items() if service.get("ports")]
    require(published == ["sidegate"], f"reachable from other machines: {published}")
    settings = pathlib.Path(project["configs"]["sidegate"]["file"]).read_text()
    variables = services["sidegate"].get("environment") or {}
    with tempfile.TemporaryDirectory(prefix="sidegate-compose-") as name:
        check_settings(settings, variables, pathlib.Path(name), program)
    mounted = {f"{SECRETS}{each['source']}" for each in services["sidegate"]["secrets"]}
    named = set(secret_files(tomllib.loads(settings)))
    require(named == mounted, f"the settings name {named}, the container has {mounted}")
    print("compose: accepted by Docker Compose, and its settings by sidegate check")


def main():
    program = build()
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    require({file.name.split("-")[0] for file in files} >= {"gateway", "sidecar"}, "a form is missing")
    for file in files:
        values = yaml.safe_load(file.read_text())
        objects = rendered(file)
        with tempfile.TemporaryDirectory(prefix="sidegate-chart-") as name:
            folder = pathlib.Path(name)
            validate(objects, folder)
            check_references(objects, values)
            deployment = only(of_kind(objects, "Deployment"), "Deployments")
            pod = deployment["spec"]["template"]["spec"]
            check_pod(pod, values)
            text = only(of_kind(objects, "ConfigMap"), "ConfigMaps")["data"]["sidegate.toml"]
            variables = {each["name"]: each["value"] for each in sidegate_container(pod)["env"]}
            check_settings(text, variables, folder, program)
        kinds = ", ".join(sorted({each["kind"] for each in objects}))
        print(f"chart: {file.name}: {kinds}")
    check_mistakes()
    check_compose(program)


if __name__ == "__main__":
    try:
        main()
    except (Wrong, subprocess.CalledProcessError) as wrong:
        sys.exit(f"chart: FAILED: {wrong}")
