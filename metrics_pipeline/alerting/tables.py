"""The tables that alerting writes: the log of alerts, and canaries."""

from metrics_pipeline.ddl.objects import Column, Table

ALERT_LOG = Table(
    name="alert_log",
    engine="ReplacingMergeTree(updated_at)",
    partition_by="tuple()",
    order_by=("key",),
    columns=(
        Column("key", "String", comment="kind:subject; empty: the last evaluation, and when messages were sent"),
        Column("kind", "LowCardinality(String)"),
        Column("subject", "String"),
        Column("severity", "LowCardinality(String)"),
        Column("phase", "LowCardinality(String)", comment="pending, firing, resolved; gone: to be forgotten"),
        Column("summary", "String", comment="What happened"),
        Column("run_id", "String"),
        Column("since", "DateTime64(3, 'UTC')", comment="When the phase began"),
        Column("seen", "DateTime64(3, 'UTC')", comment="When the problem was last there"),
        Column("notified", "DateTime64(3, 'UTC')", comment="When people were last notified"),
        Column("notified_as", "LowCardinality(String)", comment="The last notification"),
        Column("starts", "Array(DateTime64(3, 'UTC'))", comment="When it began firing lately"),
        Column("unsent", "LowCardinality(String)", comment="The notification that is still to be sent"),
        Column("updated_at", "DateTime64(3, 'UTC')"),
    ),
    comment="What is wrong, since when, and what people were notified of; the newest row of a key counts.",
)


CANARIES = Table(
    name="canaries",
    # The row of a canary that was seen replaces the one that says that it was sent.
    engine="ReplacingMergeTree(visible_at)",
    partition_by="toYYYYMM(produced_at)",
    order_by=("topic", "consumer_group", "produced_at", "event_id"),
    columns=(
        Column("topic", "LowCardinality(String)"),
        Column("consumer_group", "LowCardinality(String)"),
        Column("event_id", "UUID", comment="Of its row in raw_events"),
        Column("shard", "UInt32", comment="Whose partition it was sent to"),
        Column("shards", "UInt32", comment="How many there were"),
        Column("partition", "UInt32"),
        Column("produced_at", "DateTime64(3, 'UTC')"),
        Column("visible_at", "DateTime64(3, 'UTC')", comment="When a query found it; 1970-01-01: not seen"),
        Column("seconds", "Float64", comment="From produced to visible; 0: not seen"),
        Column(
            "objective_seconds", "Float64", comment="A canary that took longer, or was not seen for longer, is late"
        ),
    ),
    comment="Events that the pipeline sends itself, one per shard, and how long each took to be found by a query.",
)
