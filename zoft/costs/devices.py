"""What devices do at best: bytes and operations a second. Stated by their makers, or measured here (`zoft.plan.here`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

GB, TB, TFLOP = 1e9, 1e12, 1e12


@dataclass(frozen=True)
class Device:
    """Sustained rates."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes a second, reads and writes together
    flops: Mapping[str, float]  # a second, of a matrix product, by dtype
    link: float  # bytes a second to and from the host's memory, each way
    peers: float  # bytes a second that a device receives from the others of its machine
    launch: float  # seconds of Python and launches for a block of a model; a GPU computes meanwhile
    displace: float  # seconds of Python for a perturbed tensor, beside the work on its elements
    signs: float  # time of a pass over weights that draws signs, in reads and writes of as many bytes
    normals: float  # of one that draws normals
    source: str
    measured: bool = False
    asynchronous: bool = True  # computes while Python goes on


ASSUMED = (0.85, 0.75)  # of a maker's bandwidth and products: what is sustained
REPORTED = (0.9, 0.8)  # of the H200's: 4.3 TB/s and 790 TFLOP/s were reported, by others
LINK = 0.8  # of a maker's rate
EAGER = 0.8e-3  # s a block in Transformers' eager mode: 10 ms for the 12 blocks of OPT-125M, an estimate
HOOKS = 0.1e-3  # s a tensor: assumed; on one core of a slow machine 0.2 ms were measured


def _gpu(
    name: str, sheet: str, memory: float, bandwidth: float, wide: float, narrow: float, link: float, peers: float,
    sustained: tuple[float, float] = ASSUMED,
) -> Device:  # fmt: skip
    """In the maker's units: GB, TB/s, TFLOP/s in float32 and in 16 bits, GB/s to the host and to its peers, each way."""
    moving, working = sustained
    products = {"float32": wide, "bfloat16": narrow, "float16": narrow}
    return Device(
        name,
        memory=memory * GB,
        bandwidth=moving * bandwidth * TB,
        flops=MappingProxyType({dtype: working * value * TFLOP for dtype, value in products.items()}),
        link=LINK * link * GB,
        peers=LINK * peers * GB,
        launch=EAGER,
        displace=HOOKS,
        signs=1.2,
        normals=2.0,
        source=f"the maker's data sheet ({sheet}), {moving:g} of its bandwidth and {working:g} of its products",
    )


def _laptop() -> Device:
    flops = MappingProxyType({"float32": 0.3 * TFLOP, "bfloat16": 0.3 * TFLOP, "float16": 0.3 * TFLOP})
    source = "assumed: 8 cores with AVX2, two channels of memory, a disk of 1 GB/s"
    return Device(
        "laptop", 16 * GB, 40 * GB, flops, link=1 * GB, peers=1 * GB, launch=0.3e-3, displace=0.1e-3, signs=1.4,
        normals=4.8, source=source, asynchronous=False,
    )  # fmt: skip


DEVICES = {
    device.name: device
    for device in (
        _gpu("h200", "SXM, dense", 141, 4.8, 67, 989, 64, 450, REPORTED),
        _gpu("h100", "SXM, dense", 80, 3.35, 67, 989, 64, 450),
        _gpu("a100", "80 GB SXM, dense", 80, 2.04, 19.5, 312, 32, 300),
        _gpu("4090", "GeForce RTX, dense, float32 sums", 24, 1.008, 82.6, 165, 32, 25),
        _laptop(),
    )
}
