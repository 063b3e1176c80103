"""Latency as a cost: measures layers, predicts whole networks from them, and checks the predictions.

Reading order: `layers` (the layers of a network), `grid` (the widths to time), `table` (the file), `measure_table`
(filling the table), `predict` (the cost), `calibrate` (the errors of the predictions), `model` (the protocol that
`widths`, `tokens` and `whole` fulfil), `closed_loop` (meeting a budget by measurement).

An experiment decided how a layer is timed (ONNX Runtime 1.32, one thread, a busy machine). It compared sums over all
layers with the whole network's median:

| | ResNet-50 | MobileNetV2 | ViT-S |
|---|---|---|---|
| whole network, ms | 82.5 | 10.2 | 112.6 |
| sum of its kernels, by its own profile | 80.4 | 10.9 | 117.6 |
| sum of single layers, kernels by their profiles | 81.3 | 11.2 | 127.5 |

Single layers predict as well as profiles of whole networks. Networks can share them, and their widths can be chosen
freely, whereas widths in a network depend on each other. They need no exporter: the model of one layer is built in
milliseconds, and an export takes seconds. Timed from outside instead of by profile, a layer would include the cost of a
call and of two layout conversions, which exceeds that of a small layer itself.
"""

from edakari.latency.cache import cache_folder, require_cache
from edakari.latency.calibrate import chosen_sizes, correction, fit_latency, left_out, random_sizes
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
    "chosen_sizes",
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
