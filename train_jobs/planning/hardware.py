"""Machines that a plan can be made for, with the numbers of their data sheets."""

from typing import Final

from pydantic import Field

from starloom.config import Config


class Hardware(Config):
    """One kind of node. Rates are peaks in one direction, a processor's own share of them."""

    memory_gb: float = Field(gt=0)  # 10^9 bytes of each processor
    peak_tflops: float = Field(gt=0)  # dense matrix products in the training precision
    node_size: int = Field(8, gt=0)  # processors in a node
    inside_gb_per_s: float = Field(gt=0)  # between two processors of a node
    outside_gb_per_s: float = Field(gt=0)  # between nodes, for each processor
    dollars_per_hour: float = Field(0.0, ge=0)  # of one processor


# Data sheets of NVIDIA (bf16, dense). Prices are round figures for on-demand clouds; give yours with --price.
HARDWARE: Final = {
    "a100-40g": Hardware(
        memory_gb=42.9, peak_tflops=312, inside_gb_per_s=300, outside_gb_per_s=25, dollars_per_hour=1.5
    ),
    "a100-80g": Hardware(
        memory_gb=85.9, peak_tflops=312, inside_gb_per_s=300, outside_gb_per_s=25, dollars_per_hour=2.0
    ),
    "h100-80g": Hardware(
        memory_gb=85.9, peak_tflops=989, inside_gb_per_s=450, outside_gb_per_s=50, dollars_per_hour=3.0
    ),
    "h200-141g": Hardware(
        memory_gb=150.8, peak_tflops=989, inside_gb_per_s=450, outside_gb_per_s=50, dollars_per_hour=3.5
    ),
}
