"""ClickHouse's error codes, sorted by what to do about them.

Source of the codes: `src/Common/ErrorCodes.cpp` of ClickHouse. A code that stands nowhere here is taken for transient:
waiting loses nothing, while a wrong guess that rows are bad would throw them out.
"""

import ssl
from collections.abc import Callable
from typing import TypeVar

from clickhouse_connect.driver.exceptions import Error

from metrics_pipeline.errors import (
    ClickHouseUnavailableError,
    ConfigurationError,
    ForeignViewError,
    PipelineError,
    RejectedError,
    SchemaMismatchError,
)

_T = TypeVar("_T")

REJECTED_CODES = {
    6: "CANNOT_PARSE_TEXT",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    53: "TYPE_MISMATCH",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    376: "CANNOT_PARSE_UUID",
    395: "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
    469: "VIOLATED_CONSTRAINT",
}
"""The server refuses the rows for what they say."""

TRANSIENT_CODES = {
    3: "UNEXPECTED_END_OF_FILE",
    95: "CANNOT_READ_FROM_SOCKET",
    96: "CANNOT_WRITE_TO_SOCKET",
    159: "TIMEOUT_EXCEEDED",
    173: "CANNOT_ALLOCATE_MEMORY",
    198: "DNS_ERROR",
    201: "QUOTA_EXCEEDED",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    203: "NO_FREE_CONNECTION",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    225: "NO_ZOOKEEPER",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    243: "NOT_ENOUGH_SPACE",
    244: "UNEXPECTED_ZOOKEEPER_ERROR",
    252: "TOO_MANY_PARTS",
    279: "ALL_CONNECTION_TRIES_FAILED",
    285: "TOO_FEW_LIVE_REPLICAS",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    319: "UNKNOWN_STATUS_OF_INSERT",
    394: "QUERY_WAS_CANCELLED",
    410: "NOT_A_LEADER",
    425: "SYSTEM_ERROR",
    439: "CANNOT_SCHEDULE_TASK",
    499: "S3_ERROR",
    999: "KEEPER_EXCEPTION",
}
"""Load, network, disks, replication: it passes, by itself or by somebody's hand, and the same insert then lands."""

SCHEMA_CODES = {
    8: "THERE_IS_NO_COLUMN",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    47: "UNKNOWN_IDENTIFIER",
    60: "UNKNOWN_TABLE",
    81: "UNKNOWN_DATABASE",
}
"""A table or column is not there."""
_UNKNOWN_DATABASE = 81

CONFIGURATION_CODES = {
    164: "READONLY",
    192: "UNKNOWN_USER",
    193: "WRONG_PASSWORD",
    194: "REQUIRED_PASSWORD",
    497: "ACCESS_DENIED",
    516: "AUTHENTICATION_FAILED",
}
"""The account may not do this."""


_IN_VIEW = "while pushing to view"
"""Words of an error in a view, for which the server has no code. The rows may be in raw_events already, without their
rollup."""


def translate(error: Error, doing: str) -> PipelineError:
    """The error of ours that says what happened while `doing`, and what to do now."""
    said = f"while {doing}: {first_line(error)}"
    if error.code in REJECTED_CODES and _IN_VIEW in str(error):
        return ForeignViewError(f"{said}: mend or drop that view, the next run goes on")
    if error.code in REJECTED_CODES:
        return RejectedError(said)
    if error.code in SCHEMA_CODES:
        is_database = error.code == _UNKNOWN_DATABASE
        first = "create the database that METRICS_CLICKHOUSE__URL names" if is_database else "run `schema plan`"
        return SchemaMismatchError(f"{said}: {first}, then `metrics-pipeline schema apply`")
    if (refused := _tls_refusal(error)) is not None:
        return ConfigurationError(f"while {doing}: {refused}")
    if error.code in CONFIGURATION_CODES:
        return ConfigurationError(f"{said}: check the user, password and grants of METRICS_CLICKHOUSE__URL")
    return ClickHouseUnavailableError(said)


def _tls_refusal(error: BaseException) -> str | None:
    """What is wrong with a certificate, if that is what broke the connection: waiting doesn't mend it."""
    chain: object = error
    while isinstance(chain, BaseException):
        if isinstance(chain, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is refused: {chain.verify_message}: renew it, or let "
                "METRICS_CLICKHOUSE__CA_FILE name who signed it"
            )
        if isinstance(chain, ssl.SSLError) and "CERTIFICATE" in (chain.reason or ""):
            return (
                f"the server wants a certificate of ours ({chain.reason}): check METRICS_CLICKHOUSE__CERTIFICATE_FILE "
                "and METRICS_CLICKHOUSE__KEY_FILE"
            )
        # urllib3 carries what it wraps as its argument, and not always as its cause.
        chain = chain.__cause__ or chain.__context__ or next(iter(chain.args), None)
    return None


def calling(doing: str, action: Callable[[], _T]) -> _T:
    """Run one client call; the driver's errors become ours."""
    try:
        return action()
    except Error as error:
        raise translate(error, doing) from error


def first_line(error: Exception, limit_characters: int = 500) -> str:
    """The server's words without its stack trace; of a first line that announces something, also the next one."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = f"{first} {others[0]}" if first.endswith(":") and others else first
    return said[:limit_characters]
