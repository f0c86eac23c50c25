"""What the protocol relies on, asked of the real engines and of the models that the simulation runs on."""
