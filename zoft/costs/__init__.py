"""What a step costs, by arithmetic: bytes of memory, bytes moved, operations, seconds. Plain numbers, no torch."""
