"""Models larger than the device's memory: blocks live outside of it and are brought in while they run (docs/streaming.md)."""
