"""From images to detections, files of them, and maps of what the model looked at."""

from detector.inference.attention.maps import AttentionMaps, attention_maps

__all__ = ["AttentionMaps", "attention_maps"]
