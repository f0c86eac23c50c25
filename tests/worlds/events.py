"""Events for tests, as producers write them."""

import json
import random
import time
import uuid
from typing import Any


def event(random_: random.Random, **changes: Any) -> dict[str, Any]:
    """A valid event of now; `changes` replace fields."""
    return {
        "event_id": str(uuid.UUID(int=random_.getrandbits(128), version=4)),
        "timestamp": time.time_ns() // 1_000_000,
        "service": f"service-{random_.randrange(5)}",
        "endpoint": f"/endpoint/{random_.randrange(5)}",
        "method": "GET",
        "status": 500 if random_.random() < 0.01 else 200,
        "latency_ms": random_.lognormvariate(3, 1),
        "customer": {"id": f"c{random_.randrange(100)}", "tier": random_.choice(["free", "pro", "enterprise"])},
        "attributes": {"version": "1.2.3"},
        **changes,
    }


def encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def events(count: int, seed: int = 0, **changes: Any) -> list[bytes]:
    random_ = random.Random(seed)
    return [encode(event(random_, **changes)) for _ in range(count)]
