"""What it amounts to: which causes are proven, the verdict, and the effect on the outputs."""
