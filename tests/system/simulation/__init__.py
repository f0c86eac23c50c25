"""The delivery protocol under seeded schedules: models of the engines, a virtual clock, faults at every call."""
