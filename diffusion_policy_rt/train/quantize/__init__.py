"""Quantization: each part of a policy in the 8-bit form that suits it and this machine."""
