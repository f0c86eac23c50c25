"""What Dagster's chart makes of our values, as far as the instance and its runs go."""

import re
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[3] / "deploy" / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((KUBERNETES / "values.yaml").read_text())
LAUNCHER: dict[str, Any] = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
CODE: dict[str, Any] = VALUES["dagster-user-deployments"]["deployments"][0]


def snake(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


def instance() -> dict[str, Any]:
    """The instance beside its storage and launcher."""
    daemon = VALUES["dagsterDaemon"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    return {
        "telemetry": VALUES["telemetry"],
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": {snake(name): value for name, value in queue.items()},
        },
        "run_monitoring": {snake(name): value for name, value in daemon["runMonitoring"].items()},
        "sensors": {snake(name): value for name, value in daemon["sensors"].items()},
        **VALUES["additionalInstanceConfig"],
    }


def launcher(namespace: str, kubeconfig: Path, dagster_home: Path) -> dict[str, Any]:
    """The launcher of a daemon that runs outside of the cluster."""
    return {
        "module": "dagster_k8s",
        "class": VALUES["runLauncher"]["type"],
        "config": {
            "load_incluster_config": False,
            "kubeconfig_file": str(kubeconfig),
            "job_namespace": namespace,
            "image_pull_policy": LAUNCHER["imagePullPolicy"],
            "service_account_name": VALUES["serviceAccount"]["name"],
            "dagster_home": str(dagster_home),
            "instance_config_map": "dagster-instance",
            "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
            "fail_pod_on_run_failure": LAUNCHER["failPodOnRunFailure"],
            "env_config_maps": [source["name"] for source in LAUNCHER["envConfigMaps"]],
            "env_vars": LAUNCHER["envVars"],
            "volumes": LAUNCHER["volumes"],
            "volume_mounts": LAUNCHER["volumeMounts"],
            "run_k8s_config": {snake(name): value for name, value in LAUNCHER["runK8sConfig"].items()},
        },
    }


def code_location_environment() -> dict[str, str]:
    """The chart's variable that names the image of runs."""
    return {"DAGSTER_CURRENT_IMAGE": f"{CODE['image']['repository']}:{CODE['image']['tag']}"}


def is_within(part: object, whole: object) -> bool:
    """Of mappings in mappings; all else must be equal."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(is_within(value, whole.get(name)) for name, value in part.items())
    return part == whole
