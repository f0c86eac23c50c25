"""Every failure is one of three: retry it, dead-letter it, or stop.

    PipelineError
    ├── RetryableError            wait and try the same step again
    │   ├── KafkaUnavailableError
    │   ├── OffsetOutOfRangeError the log no longer holds the next offset: look where it begins
    │   └── ClickHouseUnavailableError
    ├── RejectedError             these rows will never land: dead-letter them, go on with the rest
    └── StopError                 a person or another run has to act first
        ├── ConfigurationError    a setting is wrong or missing
        ├── FencedError           a newer run owns the shard; end quietly
        ├── StuckClientError      a client library hangs or can't go on; the next run starts with a new one
        ├── TopicMismatchError    the topic is not the one that the committed offsets belong to
        ├── SchemaMismatchError   a table or column that the pipeline needs is missing
        ├── ForeignViewError      a view that somebody put on raw_events fails on what is inserted
        └── LocalEngineError      a local Kafka, ClickHouse or Dagster did not start

A message says what happened, to what, and what to do now.
"""


class PipelineError(Exception):
    """Base of all errors that this project raises on purpose."""


class RetryableError(PipelineError):
    """The same step may succeed later; nothing is lost by waiting."""


class KafkaUnavailableError(RetryableError):
    """No broker answers, or one answers that it can't right now."""


class OffsetOutOfRangeError(RetryableError):
    """The log no longer holds the offset that was to be read next."""


class ClickHouseUnavailableError(RetryableError):
    """The server doesn't answer, or answers that it can't right now."""


class RejectedError(PipelineError):
    """The server refuses rows for their content, however often they are sent."""


class StopError(PipelineError):
    """Going on would be wrong until somebody acts."""


class ConfigurationError(StopError):
    """A setting is wrong or missing."""


class FencedError(StopError):
    """A newer run of the same shard took over; this one may not write any more."""


class StuckClientError(StopError):
    """A client library doesn't come back from a call, or is in a state that it can't leave."""


class TopicMismatchError(StopError):
    """Committed offsets lie outside the topic: it was deleted and recreated, or truncated."""


class SchemaMismatchError(StopError):
    """A table or column that the pipeline needs is not there."""


class ForeignViewError(StopError):
    """A view on raw_events fails. The rows may have landed, so they can't be dead-lettered: the view must be mended."""


class LocalEngineError(StopError):
    """A local engine did not start or died."""
