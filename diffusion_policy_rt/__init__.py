"""Run a distilled diffusion policy on a robot within a fixed control deadline."""

__version__ = '0.1.0'
