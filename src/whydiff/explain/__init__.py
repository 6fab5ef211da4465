"""Why: what differs between two runs, experiments on it, and the causes that they speak for or against."""
