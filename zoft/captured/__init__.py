"""The whole step as one CUDA graph: losses, estimate and update without the host between them."""

from zoft.captured.step import CapturedStep

__all__ = ["CapturedStep"]
