"""Metrics of every epoch handed on to TensorBoard, MLflow or Weights & Biases."""
