"""The faults: each a function that injects, lasts and heals, and returns a phrase on what it did."""
