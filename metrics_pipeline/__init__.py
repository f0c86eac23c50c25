"""Application events from Kafka into ClickHouse, exactly once, orchestrated by Dagster."""
