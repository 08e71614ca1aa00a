"""Demonstration data sets of npz, zarr or LeRobot files; images are read when they are needed."""

from diffusion_policy_rt.train.data.dataset import Dataset, join
from diffusion_policy_rt.train.data.reader import read_dataset

__all__ = ['Dataset', 'join', 'read_dataset']
