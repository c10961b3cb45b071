"""Small simulators that tests share."""
