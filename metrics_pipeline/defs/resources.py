"""What assets, jobs and sensors get handed: the settings, and through them Kafka and ClickHouse."""

import dagster as dg
from pydantic import Field

from metrics_pipeline.runtime.picked import known
from metrics_pipeline.settings import Settings, load_settings


class PipelineResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The pipeline as the environment configures it.

    Addresses and secrets stay in the environment: run config is shown in the UI and stored with each run.
    """

    window_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Window of drain runs, seconds; without it METRICS_DRAIN__WINDOW_SECONDS.",
    )

    def settings(self, *, shards: int | None = None) -> Settings:
        """Read the environment; `shards` is what a run was launched for. Raises ConfigurationError."""
        settings = load_settings()
        changes = known({"window_seconds": self.window_seconds, "shards": shards})
        return settings.model_copy(update={"drain": settings.drain.model_copy(update=changes)})
