"""Demonstrations: the episode file, inverse kinematics, scripted experts, recording."""
