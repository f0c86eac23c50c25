"""docs/metrics.md, printed from the catalogue: `python -m metrics_pipeline.metrics.reference > docs/metrics.md`."""

import sys

from metrics_pipeline.metrics.catalogue import METRICS, Type, markdown_table

_HEAD = """<!-- Generated: python -m metrics_pipeline.metrics.reference > docs/metrics.md -->
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

_RULES = """
Alert rules: [deploy/prometheus/rules.yaml](../deploy/prometheus/rules.yaml). A test checks that they name only metrics
of this table and run books that exist, but not their expressions: run `promtool check rules` where you have it.
"""


def reference() -> str:
    """The page as Markdown."""
    bounds = [
        f"- `{metric.full_name}`: {', '.join(f'{bound:g}' for bound in metric.bounds)}"
        for metric in METRICS
        if metric.type is Type.HISTOGRAM
    ]
    parts = [_HEAD, markdown_table(), _COUNTING, "Upper bounds of the histograms:\n", *bounds, _RULES]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
