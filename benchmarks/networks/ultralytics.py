"""ultralytics: networks by the names of their configuration files."""

from __future__ import annotations

from collections.abc import Mapping

from networks.builders import Builder, Built, image

__all__ = ["NETWORKS"]

NAMES = """
    yolov3-tiny yolov5n yolov6n yolov8n yolov8n-cls yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-p2 yolov8n-ghost
    yolov8n-world yolov8n-rtdetr yolov9t yolov10n yolo11n yolo11n-cls yolo11n-seg yolo11n-pose yolo11n-obb yolo12n
    yolo12n-seg yolo26n yolo26n-cls yolo26n-seg yolo26n-pose yolo26n-obb rtdetr-l rtdetr-resnet50
""".split()


def _yolo(name: str) -> Builder:
    def build() -> Built:
        from ultralytics import RTDETR, YOLO

        made = (RTDETR if "rtdetr" in name else YOLO)(f"{name}.yaml").model
        return made.eval(), image(64)

    return build


NETWORKS: Mapping[str, Builder] = {name: _yolo(name) for name in NAMES}
