"""What readers of metrics get: docs/metrics.md and Prometheus' rules, made of the catalogues of metrics and alerts."""

import json

from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.alerting.kind import RUNBOOKS, Kind, PromQL
from metrics_pipeline.metrics.catalogue import METRICS, Type, markdown_table

_HEAD = """<!-- Generated: make generated -->
# Metrics

```sh
metrics-pipeline exporter --port 9464          # then http://127.0.0.1:9464/metrics
metrics-pipeline exporter --names              # the table below
```

```yaml
scrape_configs:
  - job_name: metrics-pipeline
    static_configs: [{targets: ["pipeline-host:9464"]}]
```

Figures are read when they are scraped, at most every five seconds, and no engine is waited for longer than eight.
One that does not answer is `metrics_pipeline_up{engine="…"} 0`; the figures of the others are served.
"""

_COUNTING = """
Counters and histograms are sums of the ledger (dead letters: of their table) since the start of the month, UTC. So they
are the same in every exporter, whenever it was started, a restart loses nothing, and rows that retention drops don't
make them fall. At the start of a month they begin at zero, which Prometheus' `rate` and `increase` know how to take.
`metrics_pipeline_recent_freshness_seconds` is of the last 60 seconds, and absent when nothing landed in them.
"""

_ALERTS = """
## Alerts

The sensor `alerts` looks every 30 s. It concludes nothing, neither a problem nor its end, while an engine that an alert
needs does not answer. [deploy/prometheus/rules.yaml](../deploy/prometheus/rules.yaml) and
[Grafana's rules](../deploy/grafana/README.md) have the thresholds below, which are the settings' defaults: edit them
where you set `METRICS_ALERTS__…` otherwise. No Prometheus runs in the tests: run `promtool check rules` where you have
it.

| alert | severity | when | settings: `METRICS_ALERTS__` | sensor, needs | Prometheus | Grafana |
|---|---|---|---|---|---|---|"""

_RULE_FILE = """# Generated from metrics_pipeline/alerting/catalogue.py: `make generated`.
# Alert rules on what `metrics-pipeline exporter` serves; docs/metrics.md says what each metric is.
# The sensor `alerts` finds the same problems by itself. Load these where Prometheus is what wakes people, and for what
# no pipeline can say of itself: that its sensor or its exporter is gone.
groups:
  - name: metrics-pipeline
    rules:
"""


def reference() -> str:
    """The page as Markdown."""
    bounds = [
        f"- `{metric.full_name}`: {', '.join(f'{bound:g}' for bound in metric.bounds)}"
        for metric in METRICS
        if metric.type is Type.HISTOGRAM
    ]
    alerts = map(_row, KINDS.values())
    parts = [_HEAD, markdown_table(), _COUNTING, "Upper bounds of the histograms:\n", *bounds, _ALERTS, *alerts]
    return "\n".join(parts) + "\n"


def rule_file() -> str:
    """deploy/prometheus/rules.yaml."""
    return _RULE_FILE + "".join(_rule(kind, rule) for kind in KINDS.values() for rule in kind.prometheus)


def rule_name(kind: Kind, rule: PromQL) -> str:
    """As Prometheus' alerts are called: FailedRuns."""
    return rule.name or kind.name.title().replace("_", "")


def _rule(kind: Kind, rule: PromQL) -> str:
    # A JSON string is one in YAML, too.
    said = {"summary": rule.summary, "description": kind.meaning, "runbook": f"{RUNBOOKS}/{kind.runbook}"}
    for_seconds = kind.for_seconds if rule.for_seconds is None else rule.for_seconds
    return "\n".join(
        (
            f"      - alert: {rule_name(kind, rule)}",
            "        expr: |",
            *(f"          {line}" for line in rule.expr.splitlines()),
            f"        for: {for_seconds // 60}m",
            "        labels:",
            f"          severity: {rule.severity or kind.severity}",
            "        annotations:",
            *(f"          {name}: {json.dumps(text, ensure_ascii=False)}" for name, text in said.items()),
            "",
        )
    )


def _row(kind: Kind) -> str:
    engines = " and ".join(sorted({part.engine for part in kind.parts if part.engine})) or "nothing"
    cells = (
        f"[{kind.title}](runbooks/{kind.runbook})",
        kind.severity,
        kind.condition,
        ", ".join(f"`{name.upper()}`" for name in kind.settings),
        f"`{kind.name}`, {engines}" if kind.parts else "",
        ", ".join(f"`{rule_name(kind, rule)}`" for rule in kind.prometheus),
        f"`{kind.question.uid}`" if kind.question else "",
    )
    return f"| {' | '.join(cells)} |"
