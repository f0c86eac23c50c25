"""The delivery protocol and the replays under seeded schedules: models of the engines, a virtual clock, faults at every
call."""
