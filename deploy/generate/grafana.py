"""The dashboards for Grafana with its ClickHouse data source, built with Grafana's own foundation SDK.

A reader's choices reach the SQL percent-encoded, which leaves no character that could end a text, and the server
decodes them: whatever a link holds, it is a value and nothing else.
"""

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef, SortOrder, TooltipDisplayMode, VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    Dashboard as DashboardModel,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DynamicConfigValue,
    GridPos,
    VariableOption,
    VariableRefresh,
)

from metrics_pipeline.dashboards.health import PIPELINE_HEALTH
from metrics_pipeline.dashboards.incident import INCIDENT_DEEP_DIVE
from metrics_pipeline.dashboards.incomplete import INCOMPLETE_SPANS
from metrics_pipeline.dashboards.names import named_query
from metrics_pipeline.dashboards.options import OPTIONS
from metrics_pipeline.dashboards.panel import Dashboard, Kind, Panel, Unit, Variable

DATASOURCE_TYPE = "grafana-clickhouse-datasource"
DATASOURCE_UID = "metrics-pipeline-clickhouse"
TAG = "metrics-pipeline"
ALL = "*"
"""Every value of a variable, in a panel and in an address."""

_DATASOURCE = DataSourceRef(type_val=DATASOURCE_TYPE, uid=DATASOURCE_UID)
_TIME_SERIES, _TABLE = 0, 1
"""How the plugin's queries name the formats of answers."""
_UNITS = {
    Unit.NONE: "",
    Unit.COUNT: "short",
    Unit.PER_SECOND: "cps",
    Unit.PERCENT: "percent",
    Unit.RATIO: "none",
    Unit.MILLISECONDS: "ms",
    Unit.SECONDS: "s",
}
_COLUMN_UNITS = (
    ("/(_ms|^latency)$/", "ms"),
    ("/percent$/", "percent"),
    ("/^bytes/", "decbytes"),
    ("/^(requests|events|stored_rows|inserted|duplicates|dead_letters|lost_offsets|batches)$/", "short"),
)
_GRID_WIDTH = 24
_HEIGHT, _TABLE_HEIGHT, _STAT_HEIGHT = 8, 11, 4

_SPAN = "${__url_time_range}"
_DRILL_DOWNS = {
    "service": ("service-overview", "Overview of this service", "var-service=${__value.raw:percentencode}"),
    "endpoint": (
        "endpoint-detail",
        "Detail of this endpoint",
        "${service:queryparam}&var-endpoint=${__value.raw:percentencode}",
    ),
}
"""Links of the values in a table's column: dashboard, title, choices."""


def uid(dashboard_name: str) -> str:
    return f"{TAG}-{dashboard_name}"


def grafana_query(panel: Panel, all_of: frozenset[str] = frozenset()) -> str:
    """The panel's SQL with the plugin's macros and Grafana's variables; `all_of` names those that may be all."""
    return named_query(
        panel,
        time="toDateTime(t, 'UTC') AS time",
        start="toUnixTimestamp($__fromTime)",
        end="toUnixTimestamp($__toTime)",
        variables={v.name: _choice(v, may_be_all=v.name in all_of) for v in panel.variables},
    )


def build(dashboard: Dashboard) -> DashboardModel:
    """The dashboard as the model that Grafana reads as JSON."""
    may_be_all = _may_be_all(dashboard)
    built = (
        builders.Dashboard(dashboard.title)
        .uid(uid(dashboard.name))
        .description(dashboard.description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h" if dashboard is not INCIDENT_DEEP_DIVE else "now-15m", "now")
        .refresh("30s" if dashboard is not INCIDENT_DEEP_DIVE else "")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
        .link(
            builders.DashboardLink("Dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=True)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .variables([_variable(v, may_be_all=v.name in may_be_all) for v in dashboard.variables])
    )
    if dashboard is not PIPELINE_HEALTH:
        built = built.annotation(_incomplete())
    for panel in dashboard.panels:
        built = built.with_panel(_panel(dashboard, panel, may_be_all))
    model = built.build()
    _place(model)
    return model


def _place(model: DashboardModel) -> None:
    """Places panels from left to right, a row as high as its highest panel. Numbers keep links to a panel valid."""
    x = y = row_height = 0
    for number, panel in enumerate(model.panels or [], start=1):
        width, height = (panel.grid_pos.w, panel.grid_pos.h) if panel.grid_pos else (_GRID_WIDTH, _HEIGHT)
        if x + width > _GRID_WIDTH:
            x, y, row_height = 0, y + row_height, 0
        panel.id_val, panel.grid_pos = number, GridPos(h=height, w=width, x=x, y=y)
        x, row_height = x + width, max(row_height, height)


class _Given(Builder[Dataquery]):
    """A query that is complete already: the SDK knows no type for this data source."""

    def __init__(self, data: dict[str, object]) -> None:
        self._data = data

    def build(self) -> Dataquery:
        return UnknownDataquery(self._data)


def target(sql: str, *, ref_id: str = "A", is_series: bool) -> Builder[Dataquery]:
    """A query of the ClickHouse plugin, in its SQL editor's form."""
    return _Given(
        {
            "datasource": {"type": DATASOURCE_TYPE, "uid": DATASOURCE_UID},
            "editorType": "sql",
            "format": _TIME_SERIES if is_series else _TABLE,
            "queryType": "timeseries" if is_series else "table",
            "rawSql": sql,
            "refId": ref_id,
        }
    )


def _choice(variable: Variable, *, may_be_all: bool) -> str:
    encoded = f"'${{{variable.name}:percentencode}}'"
    decoded = f"decodeURLComponent({encoded})"
    if variable.type != "String":
        return f"to{variable.type}OrZero({decoded})"
    return f"if({encoded} IN ('{ALL}', '%2A'), '', {decoded})" if may_be_all else decoded


def _may_be_all(dashboard: Dashboard) -> frozenset[str]:
    """Variables that may be all. An endpoint may be in a deep dive alone: another dashboard is about one endpoint."""
    return frozenset({"tier", "region"} | ({"endpoint"} if dashboard is INCIDENT_DEEP_DIVE else set()))


def _variable(variable: Variable, *, may_be_all: bool) -> builders.QueryVariable | builders.TextBoxVariable:
    if variable.name not in OPTIONS:
        value = str(variable.default)
        box = builders.TextBoxVariable(variable.name).label(variable.label).default_value(value)
        return box.current(VariableOption(text=value, value=value))
    sql = grafana_query(OPTIONS[variable.name])
    built = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_DATASOURCE)
        .query({"editorType": "sql", "rawSql": sql, "refId": variable.name})
        .definition(sql)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(may_be_all)
    )
    if not may_be_all:
        return built
    return built.all_value(ALL).current(VariableOption(text="All", value="$__all"))


def _incomplete() -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name("Incomplete minutes")
        .datasource(_DATASOURCE)
        .enable(enable=True)
        .icon_color("orange")
        .target(target(grafana_query(INCOMPLETE_SPANS), ref_id="annotation", is_series=False))
    )


def _panel(
    dashboard: Dashboard, panel: Panel, may_be_all: frozenset[str]
) -> timeseries.Panel | table.Panel | stat.Panel:
    query = target(grafana_query(panel, may_be_all), is_series=panel.kind is Kind.TIMESERIES)
    if panel.kind is Kind.TIMESERIES:
        return _timeseries(dashboard, panel, query)
    if panel.kind is Kind.STAT:
        return _stat(panel, query)
    return _table(panel, query)


def _timeseries(dashboard: Dashboard, panel: Panel, query: Builder[Dataquery]) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_DATASOURCE)
        .with_target(query)
        .span(_GRID_WIDTH // 2)
        .height(_HEIGHT)
        .unit(_UNITS[panel.unit])
        .min(0)
        .show_points(VisibilityMode.AUTO)
        .fill_opacity(8)
        .legend(common_builders.VizLegendOptions().show_legend(show_legend=True))
        .tooltip(common_builders.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if panel.lines_by:
        built = built.display_name(f"${{__field.labels.{panel.lines_by}}}")
    if panel.unit is Unit.RATIO:
        built = built.max(1)
    names = {v.name for v in panel.variables}
    if dashboard is not INCIDENT_DEEP_DIVE and "service" in names:
        choices = "&".join(f"${{{n}:queryparam}}" for n in ("service", "endpoint", "tier", "region") if n in names)
        built = built.data_links([_link(INCIDENT_DEEP_DIVE.name, "Raw events of this time", choices)])
    return built


def _table(panel: Panel, query: Builder[Dataquery]) -> table.Panel:
    built = (
        table.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_DATASOURCE)
        .with_target(query)
        .span(_GRID_WIDTH)
        .height(_TABLE_HEIGHT)
    )
    for pattern, unit in _COLUMN_UNITS:
        built = built.override_by_regexp(pattern, [DynamicConfigValue("unit", unit)])
    for column, (name, title, choices) in _DRILL_DOWNS.items():
        links = [{"title": title, "url": _address(name, choices)}]
        if column == "endpoint":
            links.append({"title": "Raw events of this endpoint", "url": _address(INCIDENT_DEEP_DIVE.name, choices)})
        built = built.override_by_name(column, [DynamicConfigValue("links", links)])
    return built


def _stat(panel: Panel, query: Builder[Dataquery]) -> stat.Panel:
    built = (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(_DATASOURCE)
        .with_target(query)
        .span(_GRID_WIDTH)
        .height(_STAT_HEIGHT)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for pattern, unit in _COLUMN_UNITS:
        built = built.override_by_regexp(pattern, [DynamicConfigValue("unit", unit)])
    return built


def _link(dashboard_name: str, title: str, choices: str) -> builders.DashboardLink:
    return builders.DashboardLink(title).url(_address(dashboard_name, choices))


def _address(dashboard_name: str, choices: str) -> str:
    return f"/d/{uid(dashboard_name)}?{choices}&{_SPAN}"
