"""The files with which a Grafana server finds the data source, the dashboards and the alerts. Pure: paths to texts."""

import json
from typing import Any

from grafana_foundation_sdk.builders import alerting, expr
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.common import DataSourceRef

from deploy.generate.grafana import DATASOURCE_TYPE, DATASOURCE_UID, TAG, build, target, uid
from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.alerting.kind import RUNBOOKS, Kind, Question
from metrics_pipeline.dashboards.panels import DASHBOARDS

FOLDER = "metrics-pipeline"
DASHBOARDS_PATH = "/var/lib/grafana/dashboards/metrics-pipeline"
"""Where the server finds the dashboards' files."""
EVALUATE_EVERY = "1m"

_NOTE = "# Generated from metrics_pipeline/dashboards: `make generated`.\n"

_DATASOURCE = f"""{_NOTE}apiVersion: 1
datasources:
  - name: metrics-pipeline
    uid: {DATASOURCE_UID}
    type: {DATASOURCE_TYPE}
    access: proxy
    editable: false
    jsonData:
      host: $GRAFANA_CLICKHOUSE_HOST
      port: $GRAFANA_CLICKHOUSE_PORT
      protocol: http
      defaultDatabase: $GRAFANA_CLICKHOUSE_DATABASE
      username: $GRAFANA_CLICKHOUSE_USER
      queryTimeout: "60"
    secureJsonData:
      password: $GRAFANA_CLICKHOUSE_PASSWORD
"""

_PROVIDER = f"""{_NOTE}apiVersion: 1
providers:
  - name: {FOLDER}
    folder: {FOLDER}
    type: file
    disableDeletion: true
    allowUiUpdates: false
    options:
      path: {DASHBOARDS_PATH}
"""


def files() -> dict[str, str]:
    """Every generated file of deploy/grafana, by its path there."""
    return {
        "provisioning/datasources/clickhouse.yaml": _DATASOURCE,
        "provisioning/dashboards/metrics-pipeline.yaml": _PROVIDER,
        "provisioning/alerting/rules.json": _text(_rule_file()),
        **{f"dashboards/{dashboard.name}.json": _text(build(dashboard)) for dashboard in DASHBOARDS},
    }


def _text(value: object) -> str:
    return json.dumps(value, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _rule_file() -> dict[str, object]:
    group = {
        "orgId": 1,
        "name": TAG,
        "folder": FOLDER,
        "interval": EVALUATE_EVERY,
        "rules": [_rule(kind, kind.question) for kind in KINDS.values() if kind.question],
    }
    return {"apiVersion": 1, "groups": [group]}


def _rule(kind: Kind, question: Question) -> dict[str, Any]:
    """A rule as files give it: query, its last value, the limit. The group says the folder."""
    limit = expr.ExprTypeThresholdConditionsEvaluator().params([question.above]).type("gt")
    last = expr.TypeReduce().ref_id("B").expression("A").reducer("last")
    above = expr.TypeThreshold().ref_id("C").expression("B")
    above = above.conditions([expr.ExprTypeThresholdConditions().evaluator(limit)])
    rule = (
        alerting.Rule(kind.title.capitalize())
        .uid(uid(question.uid))
        .condition("C")
        .with_query(
            alerting.Query("A")
            .datasource_uid(DATASOURCE_UID)
            .relative_time_range(RelativeTimeRange(from_val=question.span_seconds, to=0))
            .model(target(question.sql, is_series=False))
        )
        .with_query(alerting.Query("B").datasource_uid("__expr__").model(last.datasource(_EXPRESSION)))
        .with_query(alerting.Query("C").datasource_uid("__expr__").model(above.datasource(_EXPRESSION)))
        .for_val(f"{kind.for_seconds // 60}m")
        .no_data_state("OK")
        .exec_err_state("Error")
        .labels({"severity": kind.severity, "pipeline": TAG})
        .annotations({"summary": kind.condition, "description": kind.meaning, "runbook": f"{RUNBOOKS}/{kind.runbook}"})
        .build()
    )
    given = json.loads(json.dumps(rule, cls=JSONEncoder))
    return {name: value for name, value in given.items() if name not in ("folderUID", "orgID", "ruleGroup")}


_EXPRESSION = DataSourceRef(type_val="__expr__", uid="__expr__")
