"""One small file per thing that a device can contribute, the device's half. Compiled in: a plan can only name what is here."""
