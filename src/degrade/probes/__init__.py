"""What a trained network looks like inside: each probe measures, keeps its numbers beside the run, and draws them."""
