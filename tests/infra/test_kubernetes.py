"""Manifests by Kubernetes' schemas; the job template as server and worker of Prefect take it."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes_validate
import prefect_kubernetes.worker
import pytest
import yaml
from infra_files import INFRA, base_job_template, compose, image_command, locked, manifests
from infra_files import variables as environment_file
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.utilities.templating import find_placeholders
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

FOLDER = INFRA / "kubernetes"
VERSIONS = ("1.31", "1.34", "1.37")
RESOURCES = ("namespace.yaml", "rbac.yaml", "storage.yaml", "network-policy.yaml")
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "worker-values.yaml").read_text())


def job(**variables: object) -> dict[str, Any]:
    """The Job that Prefect's worker makes for a flow run."""
    configuration: Any = asyncio.run(
        KubernetesWorkerJobConfiguration.from_template_and_values(
            base_job_template(),
            variables,
            client=PrefectClient("http://127.0.0.1:9/api"),  # no block is named: nothing is asked
        )
    )
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="train-cxr3"))
    manifest: dict[str, Any] = configuration.job_manifest
    return manifest


def pod(**variables: object) -> dict[str, Any]:
    spec: dict[str, Any] = job(**variables)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RESOURCES)
def test_kubernetes_schema_accepts_the_manifests(name: str, version: str) -> None:
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_would_find_a_misspelt_field() -> None:
    (claim,) = manifests("storage.yaml")
    claim["spec"]["accessMode"] = "ReadWriteOnce"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(claim, VERSIONS[-1], strict=True)


def test_all_files_are_applied_together() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert tuple(kustomization["resources"]) == RESOURCES
    settings, template = kustomization["configMapGenerator"]
    assert settings["envs"] == ["settings.env"]
    (generated,) = template["files"]
    assert generated == "baseJobTemplate.json=base-job-template.json"
    named = VALUES["worker"]["config"]["baseJobTemplate"]["existingConfigMapName"]
    assert named == template["name"]
    everything = [each for name in RESOURCES for each in manifests(name)]
    spaces = {
        each["metadata"].get("namespace") for each in everything if each["kind"] != "Namespace"
    }
    assert spaces == {kustomization["namespace"]} == {"cxresnet"}


def test_the_server_accepts_the_job_template() -> None:
    pool = WorkPoolCreate(name="any", type="kubernetes", base_job_template=base_job_template())
    assert pool.base_job_template == base_job_template()


def test_every_variable_of_the_job_template_is_used_and_explained() -> None:
    template = base_job_template()
    placeholders = find_placeholders(json.dumps(template["job_configuration"]))
    properties = template["variables"]["properties"]
    assert {each.name for each in placeholders} == set(properties)
    assert all(each["title"] and each["description"] for each in properties.values())


def test_the_worker_heeds_every_field_of_the_job_template() -> None:
    """Prefect's worker has had others, which it still takes and no longer looks at."""
    worker = Path(prefect_kubernetes.worker.__file__).parent
    code = "".join(path.read_text() for path in worker.glob("*.py"))
    for name in base_job_template()["job_configuration"]:
        if name not in ("name", "command", "env", "labels", "annotations", "job_manifest"):
            assert f"configuration.{name}" in code or f"self.{name}" in code, name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_gpus", [0, 1, 4])
def test_the_job_of_a_run_is_one_that_kubernetes_takes(version: str, num_gpus: int) -> None:
    manifest = job(num_gpus=num_gpus, env={"CXR_S3_PREFIX": "trial"})
    for misplaced in ("parallelism", "completions"):
        # Prefect's worker insists on these of a Job in its pod, where Kubernetes drops them.
        assert manifest["spec"]["template"]["spec"].pop(misplaced) == 1
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_run_has_a_gpu_shared_memory_and_its_volume() -> None:
    (container,) = pod()["containers"]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 1}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod()["volumes"]}
    assert mounts["shared-memory"] == "/dev/shm"
    assert volumes["shared-memory"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    (claim,) = manifests("storage.yaml")
    assert volumes["home"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert mounts["home"] == environment_file("kubernetes/settings.env")["CXR_HOME"]
    assert {each["key"] for each in pod()["tolerations"]} >= {"nvidia.com/gpu"}
    assert pod()["nodeSelector"] == {"nvidia.com/gpu.present": "true"}


def test_an_evicted_run_is_given_back_to_its_pool() -> None:
    manifest = job()
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    # Prefect's own retries, which know of the run's state, and none of Kubernetes' beside them.
    assert manifest["spec"]["backoffLimit"] == 0
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 110


def test_the_entry_point_of_the_image_runs_the_flow() -> None:
    (container,) = pod()["containers"]
    assert "command" not in container  # tini and with-secrets stay in front
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert image_command("worker")[0] == "sh"


def test_pods_keep_to_the_restricted_standard_that_the_namespace_enforces() -> None:
    (namespace,) = manifests("namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    worker = VALUES["worker"]
    pairs = [
        (worker["podSecurityContext"], worker["containerSecurityContext"]),
        (worker["podSecurityContext"], worker["initContainer"]["containerSecurityContext"]),
        (pod()["securityContext"], pod()["containers"][0]["securityContext"]),
    ]
    for of_pod, of_container in pairs:
        assert of_pod["runAsNonRoot"] is True
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert of_container["allowPrivilegeEscalation"] is False
        assert of_container["capabilities"] == {"drop": ["ALL"]}


def test_the_worker_may_start_jobs_and_read_pods_and_runs_may_nothing() -> None:
    documents = manifests("rbac.yaml")
    kinds = [each["kind"] for each in documents]
    assert kinds == ["ServiceAccount", "ServiceAccount", "Role", "RoleBinding"]
    worker, run, role, binding = documents
    allowed = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    reads = {("pods", verb) for verb in ("get", "list", "watch")} | {("pods/log", "get")}
    jobs = {("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")}
    assert allowed == reads | jobs
    (subject,) = binding["subjects"]
    assert subject["name"] == worker["metadata"]["name"] == VALUES["serviceAccount"]["name"]
    assert run["automountServiceAccountToken"] is False
    assert pod()["serviceAccountName"] == run["metadata"]["name"]
    assert pod()["automountServiceAccountToken"] is False
    for own in ("serviceAccount", "role", "rolebinding"):
        assert VALUES[own]["create"] is False


def test_nothing_comes_in_and_the_metadata_of_a_cloud_is_out_of_reach() -> None:
    default, worker = (each["spec"] for each in manifests("network-policy.yaml"))
    assert default["podSelector"] == {}
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default | worker
    blocks = [
        to["ipBlock"]
        for each in (default, worker)
        for rule in each["egress"]
        for to in rule["to"]
        if "ipBlock" in to
    ]
    assert len(blocks) == 2
    assert all(block["except"] == ["169.254.0.0/16"] for block in blocks)


# The chart's schema is not to be had in a package; these are the keys of its values.yaml.
CHART_KEYS = {
    "": {"fullnameOverride", "worker", "serviceAccount", "role", "rolebinding"},
    "worker": {
        *("image", "config", "apiConfig", "serverApiConfig", "extraEnvVars", "livenessProbe"),
        *("podSecurityContext", "containerSecurityContext", "initContainer"),
    },
    "worker.image": {"repository", "prefectTag"},
    "worker.config": {"type", "workPool", "limit", "installPolicy", "baseJobTemplate"},
    "worker.config.baseJobTemplate": {"existingConfigMapName"},
    "worker.serverApiConfig": {"apiUrl", "uiUrl"},
    "worker.livenessProbe": {"enabled"},
    "serviceAccount": {"create", "name"},
    "role": {"create"},
    "rolebinding": {"create"},
}


@pytest.mark.parametrize("path", CHART_KEYS)
def test_the_chart_knows_the_keys_of_its_values(path: str) -> None:
    values = VALUES
    for part in filter(None, path.split(".")):
        values = values[part]
    assert set(values) <= CHART_KEYS[path]


def test_worker_and_runs_have_the_prefect_of_the_lock() -> None:
    tag = f"{locked()['prefect']}-python3.11-kubernetes"
    assert VALUES["worker"]["image"]["prefectTag"] == tag


def test_the_workers_settings_are_ones_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in VALUES["worker"]["extraEnvVars"]:
        if "value" in each:
            monkeypatch.setenv(each["name"], each["value"])
    settings = KubernetesSettings()
    assert settings.observer.namespaces == {"cxresnet"}
    assert settings.worker.api_auth_string_secret_name == "cxr-prefect"
    assert settings.worker.api_auth_string_secret_key == "auth-string"


def test_the_user_of_the_image_is_the_user_of_the_pod() -> None:
    context = pod()["securityContext"]
    assert context["runAsUser"] == context["fsGroup"] == 10001
    assert "USER 10001:10001" in (INFRA / "Dockerfile").read_text()
    assert compose()["services"]["worker-gpu"]["image"] == "cxresnet:cuda"
