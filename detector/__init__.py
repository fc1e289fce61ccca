"""A YOLO-style object detector with attention."""
