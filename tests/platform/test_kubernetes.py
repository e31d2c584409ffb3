"""The manifests for KubeRay: its own resources by its field reference (1.7), their pods by Kubernetes' own schema."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from serve_apps.deployment import ServingConfig
from starloom.cluster import NODES
from starloom.config import validate

FOLDER = Path(__file__).parents[2] / "platform" / "clusters" / "kubernetes"
KUBERNETES = "1.33"
# names and kinds of https://docs.ray.io/en/master/kuberay/references/api.html; a pod's template is Kubernetes' own
CLUSTER = {
    "authOptions": {"enableK8sTokenAuth": bool, "secretName": str, "mode": ("token", "disabled")},
    "suspend": bool,
    "managedBy": str,
    "autoscalerOptions": {
        "resources": dict, "image": str, "imagePullPolicy": str, "env": list, "envFrom": list, "version": ("v1", "v2"),
        "volumeMounts": list, "securityContext": dict, "idleTimeoutSeconds": int,
        "upscalingMode": ("Default", "Aggressive", "Conservative"),
    },
    "headServiceAnnotations": dict,
    "enableInTreeAutoscaling": bool,
    "gcsFaultToleranceOptions": dict,
    "headGroupSpec": {
        "template": dict, "headService": dict, "enableIngress": bool, "resources": dict, "labels": dict,
        "rayStartParams": dict, "serviceType": str,
    },
    "rayVersion": str,
    "workerGroupSpecs": [{
        "suspend": bool, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
        "idleTimeoutSeconds": int, "resources": dict, "labels": dict, "rayStartParams": dict, "template": dict,
        "scaleStrategy": dict, "numOfHosts": int,
    }],
}  # fmt: skip
JOB = {
    "activeDeadlineSeconds": int, "backoffLimit": int, "rayClusterSpec": CLUSTER, "submitterPodTemplate": dict,
    "metadata": dict, "clusterSelector": dict, "submitterConfig": dict, "managedBy": str, "deletionStrategy": dict,
    "entrypoint": str, "runtimeEnvYAML": str, "jobId": str,
    "submissionMode": ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"), "entrypointResources": str,
    "entrypointNumCpus": float, "entrypointNumGpus": float, "ttlSecondsAfterFinished": int,
    "shutdownAfterJobFinishes": bool, "suspend": bool,
}  # fmt: skip
SERVICE = {
    "rayClusterDeletionDelaySeconds": int, "serveService": dict, "upgradeStrategy": dict, "serveConfigV2": str,
    "rayClusterConfig": CLUSTER, "excludeHeadPodFromServeSvc": bool,
}  # fmt: skip
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}
NAMES = ("raycluster", "rayjob", "rayservice")


def wrong(value: Any, known: Any, where: str) -> list[str]:
    """What KubeRay would not take."""
    if isinstance(known, list):
        return [line for n, one in enumerate(value) for line in wrong(one, known[0], f"{where}.{n}")]
    if isinstance(known, dict):
        unknown = [f"{where}.{key}" for key in value if key not in known]
        return unknown + [
            line for key in value if key in known for line in wrong(value[key], known[key], f"{where}.{key}")
        ]
    fits = value in known if isinstance(known, tuple) else isinstance(value, known)
    return [] if fits else [f"{where} = {value!r}"]


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def cluster(found: dict[str, Any]) -> dict[str, Any]:
    spec = found["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def groups(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster(found)["headGroupSpec"], *cluster(found)["workerGroupSpecs"]]


@pytest.mark.parametrize("name", NAMES)
def test_kuberay_takes_every_field(name: str) -> None:
    found = manifest(name)
    assert found["apiVersion"] == "ray.io/v1"
    assert wrong(found["spec"], SPECS[found["kind"]], "spec") == []
    assert wrong({**found["spec"], "nonsense": 1}, SPECS[found["kind"]], "spec") == ["spec.nonsense"]


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_every_pod(name: str) -> None:
    for group in groups(manifest(name)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        pod["spec"] = {**pod["spec"], "nonsense": 1}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_clusters_start_from_zero_with_a_token_and_grow_to_hundreds_of_gpus(name: str) -> None:
    found = cluster(manifest(name))
    assert found["authOptions"] == {"mode": "token"}
    assert found["autoscalerOptions"]["version"] == "v2"
    assert found["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["replicas"] == group["minReplicas"] == 0 for group in found["workerGroupSpecs"])
    (gpus,) = [group for group in found["workerGroupSpecs"] if group["groupName"] == "gpu-worker"]
    (container,) = gpus["template"]["spec"]["containers"]
    each = int(container["resources"]["requests"]["nvidia.com/gpu"])
    assert gpus["maxReplicas"] * each >= (512 if each == 8 else 8)
    (head,) = found["headGroupSpec"]["template"]["spec"]["containers"]
    told = json.loads(next(one["value"] for one in head["env"] if one["name"] == NODES))
    assert told == [
        {
            "cpus": int(requested["cpu"]),
            **({"gpus": int(requested["nvidia.com/gpu"])} if "nvidia.com/gpu" in requested else {}),
            "most": group["maxReplicas"],
        }
        for group in found["workerGroupSpecs"]
        for requested in [group["template"]["spec"]["containers"][0]["resources"]["requests"]]
    ]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in gpus["template"]["spec"]["volumes"]}


def test_the_service_is_a_serve_config_of_ours() -> None:
    config = yaml.safe_load(manifest("rayservice")["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["import_path"] == "serve_apps.deployment:application"
    served = validate(ServingConfig, application["args"], where="rayservice")
    assert served.gpus == 1
    keys = Path(str(served.gate.keys_file))
    (container,) = groups(manifest("rayservice"))[-1]["template"]["spec"]["containers"]
    assert str(keys.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_job_runs_a_recipe_that_is_in_the_image() -> None:
    words = manifest("rayjob")["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "starloom.cli", "run"]
    assert (FOLDER.parents[2] / words[4]).is_file()
