"""Pages in a browser: `stage` is what they share, `teleop` and `viewer` are one each."""
