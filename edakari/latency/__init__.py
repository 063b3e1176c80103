"""Latency as a cost: layers are measured, whole networks predicted from them, and the predictions checked.

Reading order: `layers` (what there is to time in a network), `grid` (at which widths), `table` (the file),
`measure_table` (filling it), `predict` (the cost), `calibrate` (how far to trust it), `model` (the protocol that
`widths`, `tokens` and `whole` fulfil), `budget_loop` (meeting a budget by measurement).

How a layer is timed was chosen by experiment (ONNX Runtime 1.32, one thread; the sum over all layers and the whole
network's median, on a machine that others used too):

| | ResNet-50 | MobileNetV2 | ViT-S |
|---|---|---|---|
| whole network, ms | 82.5 | 10.2 | 112.6 |
| sum of its kernels, by its own profile | 80.4 | 10.9 | 117.6 |
| sum of single layers, kernels by their profiles | 81.3 | 11.2 | 127.5 |

Single layers tell as much as profiles of whole networks, can be shared between networks, need no exporter (a model of
one layer is made in milliseconds, an export takes seconds), and their widths can be chosen freely, where in a network
they are tied to each other. Timed from outside instead, they would carry the cost of a call and of converting layouts
at both ends, which is more than a small layer itself.
"""

from edakari.latency.cache import cache_folder, require_cache
from edakari.latency.calibrate import correction, fit_latency, left_out, random_sizes
from edakari.latency.layers import Layer, Use, layers_of, unknown_operators
from edakari.latency.measure_table import MeasurePlan, fill, plan_measurement, wanted
from edakari.latency.predict import LatencyCost, latency_cost
from edakari.latency.table import Fit, Key, Sample, Table, extended, key_of, network_key, open_table

__all__ = [
    "Fit",
    "Key",
    "LatencyCost",
    "Layer",
    "MeasurePlan",
    "Sample",
    "Table",
    "Use",
    "cache_folder",
    "correction",
    "extended",
    "fill",
    "fit_latency",
    "key_of",
    "latency_cost",
    "layers_of",
    "left_out",
    "network_key",
    "open_table",
    "plan_measurement",
    "random_sizes",
    "require_cache",
    "unknown_operators",
    "wanted",
]
