"""Runs ClickHouse's server from its library: `python -m metrics_pipeline.lab.local.chdb_server LIBRARY OPTION...`."""

import ctypes
import sys


def main() -> None:
    """Never returns while the server runs; the process is the server."""
    library = ctypes.CDLL(sys.argv[1])
    arguments = [b"clickhouse", *(argument.encode() for argument in sys.argv[2:])]
    library.query_stable_v2.restype = ctypes.c_void_p
    library.query_stable_v2(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))


if __name__ == "__main__":
    main()
