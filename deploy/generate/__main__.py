"""Writes what is generated, `make generated`: deploy/grafana, the Prometheus rules, docs/metrics.md and docs/event.md.

It stands outside of the package, since it needs dependencies of development.
"""

from pathlib import Path

from deploy.generate.event import reference as event_reference
from deploy.generate.metrics import reference, rule_file
from deploy.generate.provisioning import files

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    grafana = {f"deploy/grafana/{name}": text for name, text in files().items()}
    for name, text in {
        **grafana,
        "deploy/prometheus/rules.yaml": rule_file(),
        "docs/metrics.md": reference(),
        "docs/event.md": event_reference(),
    }.items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
