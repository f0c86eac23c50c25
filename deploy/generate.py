"""Writes what is generated: deploy/grafana, deploy/prometheus/rules.yaml and docs/metrics.md. `make dashboards`."""

from pathlib import Path

from metrics_pipeline.dashboards.provisioning import files
from metrics_pipeline.metrics.reference import reference, rule_file

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    grafana = {f"deploy/grafana/{name}": text for name, text in files().items()}
    for name, text in {**grafana, "deploy/prometheus/rules.yaml": rule_file(), "docs/metrics.md": reference()}.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
