"""The variables that a kubelet makes of a Service for the pods of its namespace."""

from collections.abc import Sequence


def service_links(name: str, host: str, ports: Sequence[tuple[str | None, int, str]]) -> dict[str, str]:
    """Ports are (name, number, protocol); the first is also the one of the names without a port."""
    base = name.upper().replace("-", "_")
    bracketed = f"[{host}]" if ":" in host else host
    found = {f"{base}_SERVICE_HOST": host, f"{base}_SERVICE_PORT": str(ports[0][1])}
    found[f"{base}_PORT"] = f"{ports[0][2].lower()}://{bracketed}:{ports[0][1]}"
    for port_name, number, protocol in ports:
        if port_name:
            found[f"{base}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(number)
        one = f"{base}_PORT_{number}_{protocol}"
        found[one] = f"{protocol.lower()}://{bracketed}:{number}"
        found |= {f"{one}_PROTO": protocol.lower(), f"{one}_PORT": str(number), f"{one}_ADDR": host}
    return found
