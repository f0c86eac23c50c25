"""The machine's time, as a port that a simulation can replace."""

import time


class SystemClock:
    """A `Clock`."""

    def monotonic_seconds(self) -> float:
        # Counts while the machine is suspended, too: a run that wakes up must know that its proofs are old.
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
