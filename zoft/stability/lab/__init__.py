"""The edge-of-stability laboratory: small problems on which the theory can be watched at work, on one CPU core."""
