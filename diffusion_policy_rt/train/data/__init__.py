"""Demonstration data sets, read into memory from npz, zarr, or LeRobot files."""

from diffusion_policy_rt.train.data.dataset import Dataset, join
from diffusion_policy_rt.train.data.reader import read_dataset

__all__ = ['Dataset', 'join', 'read_dataset']
