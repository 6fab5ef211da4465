"""A corpus of planted defects and of benign pairs, and the confusion table that the detectors are judged by."""
