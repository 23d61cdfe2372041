"""What makes the assistant better by itself: what is watched, and what is done at night. Nothing here leaves the device."""
