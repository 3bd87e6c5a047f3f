"""The cluster files hold against the schemas and checks of those who will read them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.cli import parse
from pipeline.execution.cluster import RAYLET_ENVIRONMENT
from pipeline.run.config import AttributeConfig, AttributeJob

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("ray*.yaml"))
AUTOSCALER = sorted((CLUSTER / "autoscaler").glob("*.yaml"))
KUBERNETES = "1.30.0"
RIGHTS = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
IMAGE = "REGISTRY/staa@sha256:DIGEST"
RUN = CLUSTER / "run.yaml"


def load(path):
    return yaml.safe_load(path.read_text())


def cluster_spec(path):
    spec = load(path)["spec"]
    return spec.get("rayClusterSpec", spec)


def groups(path):
    spec = cluster_spec(path)
    return {"head": spec["headGroupSpec"]} | {g["groupName"]: g for g in spec["workerGroupSpecs"]}


def closed(schema):
    """Forbid keys that an object's schema doesn't know, as a strict `kubectl` does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if (
        "properties" in schema
        and isinstance(schema["properties"], dict)
        and schema.get("type") == "object"
        and not schema.get("x-kubernetes-preserve-unknown-fields")
        and schema["properties"]
    ):
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return schema


# --- KubeRay


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
@pytest.mark.skipif(
    "STAA_KUBERAY_CRDS" not in os.environ, reason="STAA_KUBERAY_CRDS: no folder of KubeRay's CRDs"
)
def test_manifests_hold_against_kuberays_crds(path):
    manifest = load(path)
    folder = Path(os.environ["STAA_KUBERAY_CRDS"])
    crd = load(folder / f"ray.io_{manifest['kind'].lower()}s.yaml")
    group, version = manifest["apiVersion"].split("/")
    assert (crd["spec"]["group"], crd["spec"]["names"]["kind"]) == (group, manifest["kind"])
    (schema,) = (
        each["schema"]["openAPIV3Schema"]
        for each in crd["spec"]["versions"]
        if each["name"] == version
    )
    checker = jsonschema.Draft7Validator(closed(schema))
    assert [error.message for error in checker.iter_errors(manifest)] == []
    # The check itself can fail.
    assert list(checker.iter_errors(manifest | {"spec": manifest["spec"] | {"entrypont": "x"}}))


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_pods_hold_against_kubernetes_schemas(path):
    for name, group in groups(path).items():
        template = group["template"]
        # KubeRay gives the pods their names.
        pod = {"apiVersion": "v1", "kind": "Pod"} | template
        pod["metadata"] = template["metadata"] | {"name": name}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(
                pod | {"spec": pod["spec"] | {"tolerationz": []}}, KUBERNETES, strict=True
            )


def test_both_manifests_have_the_same_cluster_but_for_the_runs_configuration():
    job, cluster = (
        cluster_spec(CLUSTER / "kuberay" / f"{kind}.yaml") for kind in ("rayjob", "raycluster")
    )
    pod = job["headGroupSpec"]["template"]["spec"]
    pod["volumes"] = [each for each in pod["volumes"] if each["name"] != "run"]
    (head,) = pod["containers"]
    head["volumeMounts"] = [each for each in head["volumeMounts"] if each["name"] != "run"]
    assert job == cluster


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_pods_have_what_their_part_needs_and_no_more_rights(path):
    import ray

    assert cluster_spec(path)["rayVersion"] == ray.__version__
    assert cluster_spec(path)["authOptions"] == {"mode": "token"}
    assert cluster_spec(path)["enableInTreeAutoscaling"] is True
    found = groups(path)
    for group in found.values():
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == RIGHTS
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        # Kubernetes demands it of what isn't CPU or memory; for these it keeps a node from being
        # filled with more than it has.
        assert container["resources"]["requests"] == container["resources"]["limits"]
    n_gpus = {
        name: group["template"]["spec"]["containers"][0]["resources"]["limits"].get(
            "nvidia.com/gpu"
        )
        for name, group in found.items()
    }
    assert n_gpus == {"head": None, "decode": None, "gpu": "1"}
    for name in ("decode", "gpu"):
        assert found[name]["minReplicas"] <= found[name]["replicas"] <= found[name]["maxReplicas"]


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_only_the_head_has_a_token_of_kubernetes(path):
    tokens = {
        name: group["template"]["spec"].get("automountServiceAccountToken", True)
        for name, group in groups(path).items()
    }
    assert tokens == {"head": True, "decode": False, "gpu": False}
    assert cluster_spec(path)["autoscalerOptions"]["securityContext"] == RIGHTS


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_what_is_written_on_a_read_only_root_is_mounted(path):
    home = re.findall(r"HOME=(/home/\w+)", (CLUSTER / "Dockerfile").read_text())[0]
    for group in groups(path).values():
        pod = group["template"]["spec"]
        folders = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
        assert {"/tmp", "/dev/shm", home} <= folders
        writable = {v["name"] for v in pod["volumes"] if "emptyDir" in v}
        mounts = pod["containers"][0]["volumeMounts"]
        assert writable == {m["name"] for m in mounts if not m.get("readOnly")}


def test_the_pod_that_submits_a_job_has_no_more_rights():
    template = load(CLUSTER / "kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]
    pod = {"apiVersion": "v1", "kind": "Pod"} | template
    pod["metadata"] = template["metadata"] | {"name": "submitter"}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    (container,) = template["spec"]["containers"]
    assert container["securityContext"] == RIGHTS
    assert template["spec"]["automountServiceAccountToken"] is False
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True


def test_images_are_named_by_digest():
    """Whatever file of the folder names one: a tag, or nothing behind the name, is refused."""
    named = {
        path: set(re.findall(r"^\s*(?:- )?image: *(.+)$", path.read_text(), re.MULTILINE))
        for path in CLUSTER.rglob("*.yaml")
    }
    assert {path for path in named if named[path]} == {*KUBERAY, *AUTOSCALER}
    assert set.union(*named.values()) == {IMAGE}


def test_the_network_policy_lets_in_the_pods_themselves_the_operator_and_prometheus():
    policy = load(CLUSTER / "kuberay/networkpolicy.yaml")
    kubernetes_validate.validate(policy, KUBERNETES, strict=True)
    spec = policy["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    chosen = spec["podSelector"]["matchLabels"].items()
    labels = [
        group["template"]["metadata"]["labels"] for p in KUBERAY for group in groups(p).values()
    ]
    labels.append(
        load(CLUSTER / "kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    )
    assert all(chosen <= each.items() for each in labels)
    own, *others = spec["ingress"]
    assert own == {"from": [{"podSelector": spec["podSelector"]}]}
    ports = {port["name"]: port["containerPort"] for port in ports_of_head()}
    assert [[p["port"] for p in each["ports"]] for each in others] == [
        [ports["dashboard"]],
        [ports["metrics"]],
    ]
    # Nothing goes out to everywhere on every port, and nothing to the machine's metadata.
    for each in spec["egress"][1:]:
        assert each["ports"]
    (block,) = (to["ipBlock"] for each in spec["egress"] for to in each["to"] if "ipBlock" in to)
    assert block["except"] == ["169.254.0.0/16"]


def ports_of_head():
    (container,) = groups(KUBERAY[0])["head"]["template"]["spec"]["containers"]
    return container["ports"]


# --- the run's configuration beside the clusters


def test_the_runs_configuration_is_one_and_fits_the_clusters():
    config = parse(AttributeJob, verb="attribute", argv=["--config", str(RUN)])
    assert (config.device, config.precision) == ("cuda", "bfloat16")
    for path in KUBERAY:
        gpu = groups(path)["gpu"]
        assert int(gpu["rayStartParams"]["num-cpus"]) == config.cpus_per_model
        assert gpu["maxReplicas"] >= config.n_models
    for path in AUTOSCALER:
        gpu = load(path)["available_node_types"]["gpu"]
        assert gpu["resources"] == {"CPU": config.cpus_per_model, "GPU": 1}
        assert gpu["max_workers"] >= config.n_models


def test_the_rayjobs_command_reads_the_configuration_that_is_mounted():
    job = load(CLUSTER / "kuberay/rayjob.yaml")["spec"]
    words = job["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.attribute"]
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    configmaps = {volume["name"]: volume.get("configMap") for volume in pod["volumes"]}
    folder, file = words[-1].rsplit("/", 1)
    configmap = configmaps[mounts[folder]]["name"]
    made = f"kubectl create configmap {configmap} --from-file={file}=cluster/run.yaml"
    assert made in (CLUSTER / "README.md").read_text()


# --- Ray's autoscaler


@pytest.mark.parametrize("path", AUTOSCALER, ids=lambda path: path.name)
def test_rays_autoscaler_takes_its_files(path):
    config = prepare_config(load(path))
    validate_config(config)
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config | {"idle_timeout": 5})
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert set(types) == {"head", "decode", "gpu"}


@pytest.mark.parametrize("path", AUTOSCALER, ids=lambda path: path.name)
def test_workers_are_spot_nodes_and_the_head_is_not(path):
    def is_spot(node):
        scheduling = node.get("scheduling", [{}])[0]
        market = node.get("InstanceMarketOptions", {})
        return "SPOT" in scheduling.values() or market.get("MarketType") == "spot"

    types = load(path)["available_node_types"]
    assert {name: is_spot(each["node_config"]) for name, each in types.items()} == {
        "head": False,
        "decode": True,
        "gpu": True,
    }


@pytest.mark.parametrize("path", AUTOSCALER, ids=lambda path: path.name)
def test_ray_starts_with_options_that_it_has_and_a_token(path):
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in parameter.opts}
    config = load(path)
    for role in ("head", "worker"):
        (line,) = (line for line in config[f"{role}_start_ray_commands"] if "ray start" in line)
        assert line.startswith("RAY_AUTH_MODE=token ")
        assert set(re.findall(r"--[a-z-]+", line)) <= known


# --- image, bucket


def test_the_image_recipe_passes_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    found = subprocess.run(
        [hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_image_is_pinned_not_root_and_copies_what_is_there():
    recipe = (CLUSTER / "Dockerfile").read_text()
    (base,) = re.findall(r"^FROM (\S+)$", recipe, re.MULTILINE)
    tag, _, digest = base.partition("@sha256:")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d+\.\d+", tag)
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert f"imagetools inspect {tag}\n" in (CLUSTER / "README.md").read_text()
    assert re.findall(r"^USER (.*)$", recipe, re.MULTILINE) == ["10001:10001"]
    copied = {
        name
        for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE)
        for name in line.split()
    }
    ignore = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert "torch==" in (ROOT / "constraints.txt").read_text()


def test_the_image_can_compile_a_model():
    recipe = (CLUSTER / "Dockerfile").read_text()
    (installed,) = re.findall(r"apt-get install(.*?)&&", recipe, re.DOTALL)
    assert {"gcc", "g++", "python3-dev"} <= set(installed.split())


def test_every_nodes_ray_has_the_environment_that_a_local_one_has():
    recipe = (CLUSTER / "Dockerfile").read_text()
    text = (CLUSTER / "README.md").read_text()
    for name, value in RAYLET_ENVIRONMENT.items():
        assert f"ENV {name}={value}\n" in recipe
        assert f"`{name}={value}`" in text


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_the_bucket_policy_names_each_action_and_resource_and_the_runs_own_paths():
    policy = json.loads((CLUSTER / "bucket-policy.json").read_text())
    statements = {each["Sid"]: each for each in policy["Statement"]}
    for each in statements.values():
        assert not any("*" in action for action in as_list(each["Action"]))
        assert all(r.startswith("arn:aws:s3:::BUCKET") for r in as_list(each["Resource"]))
    writes = [name for name, each in statements.items() if "s3:PutObject" in each["Action"]]
    assert writes == ["ReadAndWriteRuns"]
    run = load(RUN)
    key = run["out"].removeprefix("s3://")
    assert statements["ReadAndWriteRuns"]["Resource"] == f"arn:aws:s3:::{key}/*"
    manifest = run["manifest"].removeprefix("s3://")
    assert f"arn:aws:s3:::{manifest}" in statements["ReadClips"]["Resource"]


# --- monitoring


def known_metrics():
    """Names that Prometheus gets from the package and from Ray, without the suffixes."""
    import ray
    from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics

    package = re.findall(r'"(staa_\w+)"', (ROOT / "pipeline/execution/metrics.py").read_text())
    stages = ("decode", "transfer", "forward", "write")
    package += [f"staa_{stage}_seconds" for stage in stages]
    data = [f"data_{metric.name}" for metric in OpRuntimeMetrics.get_metrics()]
    folder = Path(ray.__file__).parent
    sources = [
        *(folder / "dashboard/modules/metrics/dashboards").glob("*_panels.py"),
        *(folder / "dashboard/modules/reporter").glob("*.py"),
    ]
    text = "\n".join(path.read_text() for path in sources)
    core = set(re.findall(r"\bray_([a-z_]+)", text)) | set(re.findall(r'"(node_\w+)"', text))
    return {f"ray_{name}" for name in (*package, *data, *core)}


def test_every_metric_of_the_dashboard_exists():
    dashboard = json.loads((CLUSTER / "monitoring/grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for each in expressions for name in re.findall(r"\bray_\w+", each)}
    bare = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used}
    assert bare - known_metrics() == set()
    # All that the README lists are on it.
    listed = re.findall(r"^\| `(ray_staa_\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {re.sub("_total$", "", name) for name in listed} <= bare
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_prometheus_reads_rays_list_and_the_pod_monitor_finds_the_pods():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    scrape = load(CLUSTER / "monitoring/prometheus.yaml")["scrape_configs"]
    (file,) = scrape[0]["file_sd_configs"][0]["files"]
    assert Path(file).name == PROMETHEUS_SERVICE_DISCOVERY_FILE
    monitor = load(CLUSTER / "monitoring/podmonitor.yaml")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    wanted = monitor["selector"]["matchLabels"].items()
    for path in KUBERAY:
        for group in groups(path).values():
            assert wanted <= group["template"]["metadata"]["labels"].items()
            ports = group["template"]["spec"]["containers"][0]["ports"]
            assert endpoint["port"] in {port["name"] for port in ports}


# --- what the texts name


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CLUSTER.rglob("*")) if path.is_file()],
    ids=lambda path: path.relative_to(CLUSTER).as_posix(),
)
def test_every_path_and_module_that_a_file_names_exists(path):
    text = path.read_text()
    for module in re.findall(r"python\"?,? \"?-m\"?,? \"?(\w+(?:\.\w+)*)", text):
        if module != "venv":
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for name in re.findall(r"(?<![\w/])cluster/[\w./-]*\w", text):
        assert (ROOT / name).exists(), name
    if path.suffix == ".md":
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert "://" in link or (path.parent / link).exists(), link


def test_the_options_that_the_readme_names_exist():
    text = (CLUSTER / "README.md").read_text()
    from ray.dashboard.modules.job.cli import submit

    known = {name for parameter in submit.params for name in parameter.opts}
    lines = re.findall(r"^ray job submit (.*) -- ", text, re.MULTILINE)
    assert lines
    assert set(re.findall(r"--[a-z-]+", " ".join(lines))) <= known
    for key in ("n_models", "device", "cpus_per_model", "rows_per_shard"):
        assert f"`{key}" in text
        assert key in AttributeConfig.model_fields
